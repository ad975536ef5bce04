"""Let readers have an earlier run again: --run-id, or the one that was published before the current one."""

import sys

from mfspark.cli.command_line import run_rollback

if __name__ == "__main__":
    sys.exit(run_rollback(__doc__, sys.argv[1:]))
