"""Removes old runs, so that readers never find a half-deleted run.

A folder is renamed to a hidden name first. An object store cannot do that: there a job deletes the manifest of an old
run, without which a run is none, and the next job deletes the tables. So whoever opened the run just before has the
time of one run to read them.
"""

import logging
from collections.abc import Collection
from typing import Any, NamedTuple

from mfspark.engine.files import FileStore

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""The file of a run that says what the run has; a folder without it is no run."""
_WITHOUT_END = ("failed", "interrupted", "running")


class RunEnd(NamedTuple):
    """How a run ended, from its manifest."""

    name: str
    status: str
    """complete, withdrawn, held, unchanged, failed, interrupted or running; "" without a manifest."""
    started: str
    """Start time in UTC, in ISO 8601; "" without a manifest."""
    finished: str
    """Time in UTC when the run was published, held, or found unchanged; "" if it failed, was interrupted, or is
    running."""

    @property
    def was_published(self) -> bool:
        """Whether CURRENT has named the run."""
        return self.status in ("complete", "withdrawn")


def run_end(files: FileStore, folder: str) -> RunEnd:
    """Read how the run in this folder ended."""
    path = f"{folder}/{MANIFEST}"
    manifest: dict[str, Any] = files.read_json(path) if files.exists(path) else {}
    status, started, finished = (str(manifest.get(key, "")) for key in ("status", "started", "finished"))
    name = folder.rpartition("/")[2]
    return RunEnd(name, status, started, "" if status in _WITHOUT_END else finished)


def run_ends(files: FileStore, output_path: str) -> list[RunEnd]:
    """How each run of an output ended, in the order of their start. Cost: reads one small file per run."""
    runs = f"{output_path}/runs"
    ends = [run_end(files, f"{runs}/{name}") for name in files.list_names(runs) if not name.startswith(".")]
    return sorted(ends, key=lambda end: (end.started, end.name))


def published_ends(files: FileStore, output_path: str) -> list[RunEnd]:
    """The runs that CURRENT has named, in the order of their publication. Cost: reads one small file per run."""
    published = [end for end in run_ends(files, output_path) if end.was_published]
    return sorted(published, key=lambda end: (end.finished, end.name))


def current_name(files: FileStore, output_path: str) -> str | None:
    """Name of the run that readers use now; None if there is none."""
    path = f"{output_path}/CURRENT"
    return files.read_text(path).strip() if files.exists(path) else None


def remove_run(files: FileStore, folder: str) -> None:
    """Delete the folder of a run."""
    files.delete_folder(folder, MANIFEST)


def prune_runs(files: FileStore, output_path: str, keep_runs: int | None, busy: Collection[str] = ()) -> None:
    """Delete half-deleted folders and, unless keep_runs is None, old runs.

    It keeps the newest `keep_runs` complete runs and the run that CURRENT names. It keeps other runs (held, unchanged,
    failed, interrupted, withdrawn) until a run that started later is complete, and at most `keep_runs` of them.

    busy : names of runs to keep in any case, such as the run that the job works on

    Cost: with keep_runs, reads one small file per run. Runs on the driver, which must hold the lock.
    """
    runs = f"{output_path}/runs"
    for name in files.list_names(runs):
        if name.startswith("."):
            files.delete(f"{runs}/{name}")
    if keep_runs is None:
        return
    ends = run_ends(files, output_path)
    complete = sorted((end for end in ends if end.status == "complete"), key=lambda end: (end.finished, end.name))
    last_start = max((end.started for end in complete), default="")
    others = [end for end in ends if end.status != "complete" and end.started > last_start]
    kept = {current_name(files, output_path), *busy, *(end.name for end in complete[-keep_runs:] + others[-keep_runs:])}
    for end in ends:
        if end.name in kept:
            continue
        if files.is_object_store and end.status:
            files.delete(f"{runs}/{end.name}/{MANIFEST}")
        else:
            remove_run(files, f"{runs}/{end.name}")
        logger.info("removed run %s (%s): output.keep_runs is %d", end.name, end.status or "no manifest", keep_runs)
