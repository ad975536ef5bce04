"""Removal of runs: a folder first gets a hidden name, so that readers never find a half-deleted run."""

import logging
from collections.abc import Collection
from typing import Any, NamedTuple
from uuid import uuid4

from mfspark.engine.files import FileStore

logger = logging.getLogger(__name__)

_WITHOUT_END = ("failed", "interrupted", "running")


class RunEnd(NamedTuple):
    """How a run ended, from its manifest."""

    name: str
    status: str
    """complete, withdrawn, held, unchanged, failed, interrupted, running; "" without a manifest."""
    started: str
    """UTC, as text that sorts by time; "" without a manifest."""
    finished: str
    """The same of its publication, or of its end without one; "" if it did not reach one."""

    @property
    def was_published(self) -> bool:
        """Whether readers could have seen it."""
        return self.status in ("complete", "withdrawn")


def run_end(files: FileStore, folder: str) -> RunEnd:
    """How the run in a folder ended."""
    path = f"{folder}/manifest.json"
    manifest: dict[str, Any] = files.read_json(path) if files.exists(path) else {}
    status, started, finished = (str(manifest.get(key, "")) for key in ("status", "started", "finished"))
    name = folder.rpartition("/")[2]
    return RunEnd(name, status, started, "" if status in _WITHOUT_END else finished)


def run_ends(files: FileStore, output_path: str) -> list[RunEnd]:
    """How all runs of an output ended, by the time of their start. Cost: reads one small file per run."""
    runs = f"{output_path}/runs"
    ends = [run_end(files, f"{runs}/{name}") for name in files.list_names(runs) if not name.startswith(".")]
    return sorted(ends, key=lambda end: (end.started, end.name))


def remove_run(files: FileStore, folder: str) -> None:
    """Delete the folder of a run."""
    runs, _, name = folder.rpartition("/")
    hidden = f"{runs}/.{name}.{uuid4().hex}"
    files.rename(folder, hidden)
    files.delete(hidden)


def prune_runs(files: FileStore, output_path: str, keep_runs: int | None, busy: Collection[str] = ()) -> None:
    """Remove half-deleted folders and, with keep_runs, old runs.

    The newest `keep_runs` complete runs stay, and the one that CURRENT names. Other runs (held, unchanged, failed,
    interrupted, withdrawn) stay until a run that started later is complete, but no more than `keep_runs` of them.
    None keeps all.

    busy : names of runs that stay in any case: the one that a job works on, and the one that it started from

    Cost: with keep_runs, reads one small file per run. Runs on the driver, which must hold the lock.
    """
    runs, current_path = f"{output_path}/runs", f"{output_path}/CURRENT"
    for name in files.list_names(runs):
        if name.startswith("."):
            files.delete(f"{runs}/{name}")
    if keep_runs is None:
        return
    current = files.read_text(current_path).strip() if files.exists(current_path) else None
    ends = run_ends(files, output_path)
    complete = sorted((end for end in ends if end.status == "complete"), key=lambda end: (end.finished, end.name))
    last_start = max((end.started for end in complete), default="")
    others = [end for end in ends if end.status != "complete" and end.started > last_start]
    kept = {current, *busy, *(end.name for end in complete[-keep_runs:] + others[-keep_runs:])}
    for end in ends:
        if end.name not in kept:
            remove_run(files, f"{runs}/{end.name}")
            logger.info("removed run %s (%s): output.keep_runs is %d", end.name, end.status or "no manifest", keep_runs)
