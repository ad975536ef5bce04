"""The training loop, its algorithms, and the factor tables that it makes."""
