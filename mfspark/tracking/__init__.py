"""Tracking of a run: console output, MLflow, a file for Prometheus."""
