"""The jobs: command line, pipeline, tuning."""
