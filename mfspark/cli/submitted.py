"""The command `mfspark` as a file, for spark-submit: `spark-submit $(mfspark path) run --config mfspark.toml`."""

import sys

from mfspark.cli.commands import main

if __name__ == "__main__":
    # Python puts the folder of this file first, where modules have names such as `commands`.
    sys.path.remove(sys.path[0])
    sys.exit(main())
