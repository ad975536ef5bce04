"""The Spark plumbing of one iteration; the numbers are in `kernels`."""
