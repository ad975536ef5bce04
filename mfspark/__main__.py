"""`python -m mfspark`: the command `mfspark`."""

import sys

from mfspark.batch.commands import main

sys.exit(main())
