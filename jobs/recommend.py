"""Write the top-N table of a run."""

import sys

from mfspark.cli.command_line import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, ["recommend"], sys.argv[1:]))
