"""Watching a run: names of its Spark jobs, lines and bar on the console, MLflow, a file for Prometheus."""
