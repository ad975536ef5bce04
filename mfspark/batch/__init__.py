"""Runs of the pipeline: steps, gate, increments, tuning, and what readers find."""
