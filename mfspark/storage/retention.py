"""Removal of runs: a folder first gets a hidden name, so that readers never find a half-deleted run."""

import logging
from uuid import uuid4

from mfspark.engine.files import FileStore

logger = logging.getLogger(__name__)


def remove_run(files: FileStore, folder: str) -> None:
    """Delete the folder of a run."""
    runs, _, name = folder.rpartition("/")
    hidden = f"{runs}/.{name}.{uuid4().hex}"
    files.rename(folder, hidden)
    files.delete(hidden)


def prune_runs(files: FileStore, output_path: str, keep_runs: int | None) -> None:
    """Remove half-deleted folders, and runs that ended before the newest `keep_runs` published ones.

    The run that CURRENT names stays, and so do unfinished runs. None keeps all.

    Cost: with keep_runs, reads one small file per run. Runs on the driver, which must hold the lock.
    """
    runs = f"{output_path}/runs"
    names = files.list_names(runs)
    for name in names:
        if name.startswith("."):
            files.delete(f"{runs}/{name}")
    if keep_runs is None:
        return
    current = files.read_text(f"{output_path}/CURRENT").strip()
    ended = sorted(
        (*end, name)
        for name in names
        if not name.startswith(".") and (end := _end(files, f"{runs}/{name}")) is not None
    )
    published = [(time, name) for time, status, name in ended if status == "complete"]
    for time, _, name in ended:
        if (time, name) < published[-keep_runs:][0] and name != current:
            remove_run(files, f"{runs}/{name}")
            logger.info("removed run %s: output.keep_runs is %d", name, keep_runs)


def finish_time(files: FileStore, folder: str) -> str | None:
    """UTC time of the publication of a run, as text that sorts by time; None if it was not published."""
    end = _end(files, folder)
    return end[0] if end and end[1] == "complete" else None


def _end(files: FileStore, folder: str) -> tuple[str, str] | None:
    """End time of a run and its status: complete, held or unchanged; None if it is unfinished."""
    manifest_path = f"{folder}/manifest.json"
    if not files.exists(manifest_path):
        return None
    manifest = files.read_json(manifest_path)
    status = str(manifest.get("status"))
    return (manifest.get("finished", ""), status) if status in ("complete", "held", "unchanged") else None
