"""Writes the report of a run: one HTML page about its tables and metrics, which needs no network."""
