"""Judge a run by its holdout; as the last step of a run it also publishes it."""

import sys

from mfspark.batch.command_line import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, ["evaluate"], sys.argv[1:]))
