"""The report of a run: what its tables and metrics say, as one page that needs no network."""
