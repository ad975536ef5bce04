"""Check that the packages of this environment match a lock.

python scripts/check_lock.py conf/requirements/dev.txt
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement


def differences(lock: str) -> list[str]:
    """One line for each package locked for this Python and platform that is missing or has another version."""
    found = []
    for line in lock.splitlines():
        if not line or line.startswith(("#", " ")):
            continue
        locked = Requirement(line.removesuffix("\\"))
        if locked.marker is None or locked.marker.evaluate():
            try:
                installed = version(locked.name)
            except PackageNotFoundError:
                installed = "none"
            if installed not in locked.specifier:
                found.append(f"{locked.name}: locked {locked.specifier}, installed {installed}")
    return found


if __name__ == "__main__":
    different = differences(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(*different, sep="\n", file=sys.stderr, end="\n" if different else "")
    if different:
        sys.exit(f"mfspark: the environment does not match {sys.argv[1]}; recreate it: rm -r .venv, then scripts/test")
