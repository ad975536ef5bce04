"""The lock of an output: one job at a time fills and publishes its runs.

A job holds `<output.path>/.lock-1` from before it reads the runs until its end. The file identifies the job, which
rewrites it every HEARTBEAT_S seconds. A lock is abandoned if its process on the same machine has ended, or if its last
heartbeat is ABANDONED_S seconds old. Another job takes it over: it creates the lock with the next number, which the
file system allows to one job only, and then removes the abandoned lock. A job finds the locks in a listing, which may
lag on an object store. So it also asks for those that matter by their names.

If a job only paused, it finds its lock gone, or one with a higher number, when it next writes the manifest of its run
or switches CURRENT. Then it ends.
"""

import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyspark.sql import SparkSession

from mfspark.engine.files import FileStore
from mfspark.errors import ConfigError, OutputError

logger = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
ABANDONED_S = 120.0
_NAME = re.compile(r"\.lock-([1-9]\d*)")


class OutputLock:
    """The lock of one job. Made by `lock_output`; thread-safe."""

    def __init__(self, files: FileStore, output_path: str, run_id: str, *, single_writer: bool = False) -> None:
        self.files = files
        self.may_predecessor_live = False
        """Whether the previous holder may only have paused and may still write."""
        self._output_path = output_path
        self._single_writer = single_writer
        self._path: str | None = None
        self._text = json.dumps({**_describe_process(), "run_id": run_id, "nonce": uuid4().hex}) + "\n"
        # Our other thread must not write the file between our read and our write.
        self._mutex = threading.Lock()

    def require_held(self) -> None:
        """Raise OutputError if another job took over the lock."""
        with self._mutex:
            if not self._is_held():
                raise OutputError(
                    f"this job paused too long and lost its lock on '{self._output_path}'; nothing was published; "
                    "when no other job holds the lock, continue with --resume"
                )

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        OutputError    another job holds it
        ConfigError    the file system lets several jobs create the same file, so that it has no locks; or a Spark
                       Connect server does not find the files of this process there
        """
        if not (self._single_writer or self.files.creates_for_one):
            raise self._no_locks()
        self.files.require_shared(self._output_path)
        abandoned = self._locks()
        for path, text in abandoned.items():
            if not self._is_abandoned(path, text):
                raise self._refusal(path)
        own = f"{self._output_path}/.lock-{max(map(_number, abandoned), default=0) + 1}"
        # If it exists with our text, the answer to a first try got lost.
        if not self.files.create_text(own, self._text) and self._read(own) != self._text:
            raise self._refusal(own)
        # Only a store that refuses to create it again can keep jobs apart.
        if not (self._single_writer or (not self.files.create_text(own, self._text) and self.files.creates_for_one)):
            self.files.delete(own)
            raise self._no_locks()
        # If two jobs found different locks and both created one, at least one of them sees the other's here.
        others = self._locks(*abandoned, _next(own))
        others.pop(own, None)
        for path, text in others.items():
            if abandoned.get(path) != text:
                self.files.delete(own)
                raise self._refusal(path)
        self._path = own
        for path, text in others.items():
            self.may_predecessor_live |= not _has_ended(text)
            self.files.delete(path)
            logger.warning("took over the lock of %s, which no longer runs", _name_of(text))

    def release(self) -> None:
        """Release the lock, if it is still ours."""
        with self._mutex:
            if self._path is not None and self._is_held():
                self.files.delete(self._path)

    def beat(self, ended: threading.Event) -> None:
        """Renew the lock until the job ends or loses it."""
        while not ended.wait(HEARTBEAT_S):
            try:
                with self._mutex:
                    if self._path is None or not self._is_held():
                        return
                    self.files.replace_text(self._path, self._text)
            except OutputError as error:
                logger.warning("could not renew the lock on the output, will try again: %s", error)

    def _is_held(self) -> bool:
        return self._path is not None and self._read(self._path) == self._text and self._read(_next(self._path)) is None

    def _locks(self, *known: str) -> dict[str, str]:
        """Contents of the existing locks, by path: those that the listing has, and the known ones."""
        listed = filter(_NAME.fullmatch, self.files.list_names(self._output_path))
        found = {path: self._read(path) for path in (*known, *(f"{self._output_path}/{name}" for name in listed))}
        return {path: text for path, text in found.items() if text is not None}

    def _read(self, path: str) -> str | None:
        """Content of a lock; None if there is none."""
        try:
            return self.files.read_text(path)
        except OutputError:
            if self.files.exists(path):
                raise
            return None

    def _is_abandoned(self, path: str, text: str) -> bool:
        if _has_ended(text):
            return True
        try:
            return self.files.age_s(path) > ABANDONED_S
        except OutputError:
            if self._read(path) == text:
                raise
            return True  # released or taken over just now; the next lock decides who gets it

    def _no_locks(self) -> ConfigError:
        return ConfigError(
            f"the store of '{self._output_path}' lets several jobs create the same file, so it cannot keep them apart; "
            "use a store with conditional writes (S3 and Hadoop 3.4.2 or later, fs.s3a.create.conditional.enabled), or "
            "let your scheduler start one job at a time and set output.single_writer = true"
        )

    def _refusal(self, path: str) -> OutputError:
        return OutputError(
            f"'{self._output_path}' is locked by {_name_of(self._read(path) or '')}; wait for that job to end, or "
            f"stop it; the next job takes over the lock of a dead job after at most {ABANDONED_S:g} s"
        )


@contextmanager
def lock_output(
    spark: SparkSession, output_path: str, run_id: str, *, single_writer: bool = False
) -> Iterator[OutputLock]:
    """Hold the lock of an output until the context ends, also after an error.

    single_writer : whether only one job at a time writes the output anyway, so that the lock may be unsafe

    Raises
    ------
    OutputError    another job holds it, or the output cannot be written
    ConfigError    the file system has no safe locks
    """
    output_path = output_path.rstrip("/")
    lock = OutputLock(FileStore(spark, output_path), output_path, run_id, single_writer=single_writer)
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


def _number(path: str) -> int:
    """The number of a lock; 0 if the path is not a lock."""
    match = _NAME.fullmatch(path.rpartition("/")[2])
    return int(match[1]) if match else 0


def _next(path: str) -> str:
    """The lock by which another job takes over this one."""
    folder, _, _ = path.rpartition("/")
    return f"{folder}/.lock-{_number(path) + 1}"


def _has_ended(text: str) -> bool:
    """Whether the process that wrote a lock has certainly ended."""
    holder = _parsed(text)
    return holder.get("machine") == _machine() and not _is_alive(holder.get("pid"), holder.get("process_started"))


def _describe_process() -> dict[str, Any]:
    """The identity of this job, for people and for other jobs."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": _machine(),
        "process_started": _process_started(pid),
    }


def _machine() -> str:
    """The scope of a process id: this machine since its boot, or a container on it."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # Linux has these
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _process_started(pid: int) -> str | None:
    """Start time of a process in ticks; None if it does not run, or if that is unknown."""
    with suppress(OSError):
        # After the name, which ends with the last ")", come the state, 18 more fields and the start time.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else fields[18]
    return None


def _is_alive(pid: Any, process_started: Any) -> bool:
    """Whether this process still runs on this machine, and not a later one with the same id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        pass
    return bool(_process_started(pid) == process_started)


def _parsed(text: str) -> dict[str, Any]:
    """The content of a lock; empty if it is not written yet or not ours."""
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
