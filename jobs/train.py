"""Train on the ratings of a run and write its factor tables."""

import sys

from mfspark.cli.command_line import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, ["train"], sys.argv[1:]))
