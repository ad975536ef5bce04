"""Train with many settings and write the configuration of the best."""

import sys

from mfspark.cli.command_line import run_tuning

if __name__ == "__main__":
    sys.exit(run_tuning(__doc__, sys.argv[1:]))
