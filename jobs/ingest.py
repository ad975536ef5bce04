"""Start a run: read the ratings, move unusable rows aside, split off the holdout."""

import sys

from mfspark.cli.command_line import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__, ["ingest"], sys.argv[1:]))
