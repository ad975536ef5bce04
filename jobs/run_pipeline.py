"""Run the whole pipeline: ingest, train, recommend, evaluate, publish."""

import sys

from mfspark.cli.command_line import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, ["ingest", "train", "recommend", "evaluate"], sys.argv[1:]))
