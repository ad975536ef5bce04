"""The lock of an output: one job at a time fills and publishes its runs.

A job holds `<output.path>/.lock`, which says who it is, from before it looks at the runs until its end, and writes it
anew every HEARTBEAT_S seconds. Another job takes over a lock whose job is gone: its process has ended, as far as that
can be seen from the same machine, or its last heartbeat is ABANDONED_S seconds old.

A job that was only paused for so long finds its lock gone or another's when it next writes the manifest of its run or
switches CURRENT, and ends there.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyspark.sql import SparkSession

from mfspark.errors import OutputError
from mfspark.storage.files import FileStore

logger = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
ABANDONED_S = 120.0
SETTLE_S = 1.0
"""How long a taker waits before it believes that the lock is its own: one that is slower may have moved the new lock
for a moment, in which a third could take the place."""


class OutputLock:
    """The lock of one job. Made by `lock_output`; safe in several threads."""

    def __init__(self, files: FileStore, output_path: str, run_id: str) -> None:
        self.files = files
        self._output_path, self._path = output_path, f"{output_path}/.lock"
        self._nonce = uuid4().hex
        self._text = json.dumps({**_describe_process(), "run_id": run_id, "nonce": self._nonce}) + "\n"
        # Between reading the file and writing it, our own other thread must not write it.
        self._mutex = threading.Lock()

    def require_held(self) -> None:
        """Raise OutputError when another job has taken the lock over."""
        with self._mutex:
            if not self._is_held():
                raise OutputError(
                    f"this job paused for so long that it lost its lock of '{self._output_path}'; nothing was "
                    "published; when no other job holds it, go on with --resume"
                )

    def acquire(self) -> None:
        """Take the lock; raise OutputError when another job holds it."""
        if self.files.create_text(self._path, self._text):
            return
        found = self._read()
        try:
            is_free = found is None or (self._is_abandoned(found) and self._move_away(found))
        except OutputError:
            if self._read() == found:
                raise
            is_free = False  # what could not be looked at or moved was another job's by then
        if is_free and self.files.create_text(self._path, self._text):
            time.sleep(SETTLE_S)
            if self._is_held():
                return
        raise OutputError(
            f"'{self._output_path}' is held by {_name_of(self._read() or '')}; wait for that job to end, or end "
            f"it: a lock without a living job is taken over after {ABANDONED_S:g} s at most"
        )

    def release(self) -> None:
        """Give the lock up, if it is still ours."""
        with self._mutex:
            if self._is_held():
                self.files.delete(self._path)

    def beat(self, ended: threading.Event) -> None:
        """Show that this job lives, until it has ended or has lost the lock."""
        while not ended.wait(HEARTBEAT_S):
            try:
                with self._mutex:
                    if not self._is_held():
                        return
                    self.files.replace_text(self._path, self._text)
            except OutputError as error:
                logger.warning("the lock of the output could not be renewed, next attempt soon: %s", error)

    def _is_held(self) -> bool:
        return self._read() == self._text

    def _read(self) -> str | None:
        """Content of the lock; None where there is none."""
        try:
            return self.files.read_text(self._path)
        except OutputError:
            if self.files.exists(self._path):
                raise
            return None

    def _is_abandoned(self, text: str) -> bool:
        holder = _parsed(text)
        if holder.get("machine") == _machine() and not _is_alive(holder.get("pid"), holder.get("process_started")):
            return True
        return self.files.age_s(self._path) > ABANDONED_S

    def _move_away(self, abandoned: str) -> bool:
        """Remove an abandoned lock; False where another job was faster.

        A rename gives each file to one taker only, and shows it what it got: the new lock of a faster taker is put
        back.
        """
        moved = f"{self._path}-{self._nonce}"
        if self._read() != abandoned:
            return False
        self.files.rename(self._path, moved)
        if self.files.read_text(moved) != abandoned:
            self.files.rename(moved, self._path)
            return False
        self.files.delete(moved)
        logger.warning("took over the output from %s, which is gone", _name_of(abandoned))
        return True


@contextmanager
def lock_output(spark: SparkSession, output_path: str, run_id: str) -> Iterator[OutputLock]:
    """Hold the lock of an output until the end, also after an error.

    Raises
    ------
    OutputError    another job holds it, or the output cannot be written
    """
    output_path = output_path.rstrip("/")
    lock = OutputLock(FileStore(spark, output_path), output_path, run_id)
    lock.acquire()
    ended = threading.Event()
    heart = threading.Thread(target=lock.beat, args=[ended], daemon=True)
    heart.start()
    try:
        yield lock
    finally:
        ended.set()
        heart.join()
        lock.release()


def _describe_process() -> dict[str, Any]:
    """Who this job is, for people and for the jobs that would take over from it."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": _machine(),
        "process_started": _process_started(pid),
    }


def _machine() -> str:
    """Where the number of a process has a meaning: this machine since its last start, or a container on it."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # Linux has these
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _process_started(pid: int) -> str | None:
    """When a process was started, in ticks; None where there is none that runs, or this cannot be known."""
    with suppress(OSError):
        # After the name, which ends with the last ")": the state, then 18 more fields, then the start.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else fields[18]
    return None


def _is_alive(pid: Any, process_started: Any) -> bool:
    """Whether this very process runs on this machine, not a later one of the same number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return bool(_process_started(pid) == process_started)


def _parsed(text: str) -> dict[str, Any]:
    """What a lock says; nothing, where it is not written yet or not ours."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    is_ours = isinstance(content, dict) and isinstance(content.get("pid"), int)
    return content if is_ours else {}


def _name_of(text: str) -> str:
    holder = _parsed(text)
    if not holder:
        return "another job"
    return (
        f"run '{holder.get('run_id')}' (host {holder.get('host')}, pid {holder['pid']}, since {holder.get('started')})"
    )
