"""Evaluate a run on its holdout, then publish it."""

import sys

from mfspark.cli.command_line import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, ["evaluate"], sys.argv[1:]))
