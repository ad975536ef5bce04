"""Names of files and folders, as text."""

import re


def hidden(path: str, suffix: str) -> str:
    """A path beside another, for what readers must not find."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.{suffix}"


def literal(path: str) -> str:
    """Escape a path: Spark's reader takes '*' and '[' as patterns."""
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", path)
