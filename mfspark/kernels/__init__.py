"""Numbers only: numpy and numba on plain arrays. Nothing in here knows Spark; all of it runs anywhere."""
