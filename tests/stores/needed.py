"""What a test of a store needs and may not be there."""

import os
from pathlib import Path
from typing import TypeVar

import pytest

from tests.conftest import PROJECT

T = TypeVar("T")


def needed(found: T | None, what: str) -> T:
    """What was found. If there is none, the test is skipped, but in CI it fails."""
    if found is None:
        reason = f"needs {what}; run scripts/test --all"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def jars(name: str) -> list[Path]:
    """The jars of conf/jars/<name>.xml."""
    folder = PROJECT / "build/jars" / name
    is_there = (folder / "made-from").exists()
    return needed(sorted(folder.glob("*.jar")) if is_there else None, f"the jars of conf/jars/{name}.xml")
