"""The version of mfspark: pyproject.toml and the manifest of a run take it from here."""

__version__ = "0.1.0"
