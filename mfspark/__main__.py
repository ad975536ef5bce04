"""`python -m mfspark`: the command `mfspark`."""

import sys

from mfspark.cli.commands import main

sys.exit(main())
