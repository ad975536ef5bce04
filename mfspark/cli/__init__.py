"""The command line: jobs, the command `mfspark`, and what signals do."""
