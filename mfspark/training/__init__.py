"""The loop, its algorithms, and the factor tables that come of it."""
