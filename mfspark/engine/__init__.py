"""Engines that run work on the cores; all use of private Spark API is here."""
