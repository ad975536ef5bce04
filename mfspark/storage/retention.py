"""Removing runs: a folder gets a hidden name first, so that no half-deleted run is ever found."""

import logging
from uuid import uuid4

from mfspark.storage.files import FileStore

logger = logging.getLogger(__name__)


def remove_run(files: FileStore, folder: str) -> None:
    """Delete the folder of a run."""
    runs, _, name = folder.rpartition("/")
    hidden = f"{runs}/.{name}.{uuid4().hex}"
    files.rename(folder, hidden)
    files.delete(hidden)


def prune_runs(files: FileStore, output_path: str, keep_runs: int | None) -> None:
    """Remove what crashes have left half-deleted, and the complete runs beyond the newest `keep_runs`.

    The run that CURRENT names stays, however old, and so do unfinished runs. None keeps all.

    Cost: with keep_runs, one small file read for each run. Runs on the driver, which must hold the lock.
    """
    runs = f"{output_path}/runs"
    names = files.list_names(runs)
    for name in names:
        if name.startswith("."):
            files.delete(f"{runs}/{name}")
    if keep_runs is None:
        return
    current = files.read_text(f"{output_path}/CURRENT").strip()
    finished = {name: finish_time(files, f"{runs}/{name}") for name in names if not name.startswith(".")}
    complete = sorted((time, name) for name, time in finished.items() if time is not None)
    for _, name in complete[:-keep_runs]:
        if name != current:
            remove_run(files, f"{runs}/{name}")
            logger.info("removed run %s: output.keep_runs is %d", name, keep_runs)


def finish_time(files: FileStore, folder: str) -> str | None:
    """When a run was completed, in UTC, as text that sorts by time; None where it is not complete."""
    manifest_path = f"{folder}/manifest.json"
    if not files.exists(manifest_path):
        return None
    manifest = files.read_json(manifest_path)
    return manifest.get("finished", "") if manifest.get("status") == "complete" else None
