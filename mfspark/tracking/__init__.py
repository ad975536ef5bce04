"""Tracks a run: console output, log file, MLflow, a file for Prometheus."""
