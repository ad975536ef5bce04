"""Processes that may be killed at any moment, and what they leave behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT_S = 600


class Process:
    """A command in a session of its own, whose output goes to a file. It is killed when we are."""

    def __init__(self, command: list[object], log_path: Path, environment: dict[str, str]) -> None:
        self.log_path = log_path
        with log_path.open("w") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *[str(word) for word in command]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        """Whether the command itself runs; what it has started may outlive it."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its number; that of its session too."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What it and its children have printed so far."""
        return self.log_path.read_text(errors="replace")

    def wait_for(self, pattern: str) -> str:
        """The first group of the pattern, as soon as the output has it."""

        def search() -> str | None:
            found = re.search(pattern, self.output)
            assert found or self.is_alive, f"ended before it printed '{pattern}':\n{self.output}"
            return found and found[1]

        return wait_until(search, f"'{pattern}' in {self.log_path}")

    def wait(self) -> int:
        """Exit code of the command, when it ends by itself."""
        return self._process.wait(TIMEOUT_S)

    def kill(self) -> None:
        """End the command and all that it has started."""
        wait_until(lambda: not _kill_session(self._process.pid), "all processes ended")
        self._process.wait()


def wait_until(look: Callable[[], Any], what: str) -> Any:
    """What `look` gives, as soon as it is something."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {TIMEOUT_S} s for {what}")


def _kill_session(leader: int) -> list[int]:
    """Kill every process of this session, whose leader may have ended before; the processes that were there."""
    assert sys.platform == "linux"
    processes = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(") ")[2].split()[:4]
            if int(session) == leader and state != "Z":  # zombies wait for their parent only
                processes.append(int(path.parent.name))
                os.kill(processes[-1], signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended since
    return processes
