"""Rollback: makes an earlier run the current one again."""

from typing import NamedTuple

from pyspark.sql import SparkSession

from mfspark.errors import OutputError
from mfspark.storage.lock import OutputLock
from mfspark.storage.retention import MANIFEST, current_name, published_ends
from mfspark.storage.runs import PublishedRun, published_run, to_json


class Rollback(NamedTuple):
    """What a rollback changed."""

    before: str | None
    """The run that CURRENT named before."""
    now: PublishedRun
    """The run that CURRENT names now."""
    withdrawn: list[str]
    """Names of the runs that were published after `now`."""


def roll_back(spark: SparkSession, lock: OutputLock, output_path: str, name: str | None) -> Rollback:
    """Write the name of an earlier run to CURRENT, and mark the runs that were published after it as withdrawn.

    A second rollback, to a withdrawn run, publishes that run again.

    name : folder name of the run; None: the run that was published before the current one

    Raises
    ------
    OutputError    there is no such run, or it was never published
    """
    output_path, files = output_path.rstrip("/"), lock.files
    before = current_name(files, output_path)
    published = published_ends(files, output_path)
    names = [end.name for end in published if end.status == "complete" or end.name == name]
    if name is None:
        earlier = names[: names.index(before)] if before in names else []
        name = earlier[-1] if earlier else None
    if name not in names:
        raise OutputError(
            f"'{output_path}' has no published run {f'{name!r}' if name else 'before the current one'}; found "
            f"{', '.join(end.name for end in published) or 'none'}"
        )
    files.replace_text(f"{output_path}/CURRENT", f"{name}\n")
    place = [end.name for end in published].index(name)
    later = [end.name for end in published[place + 1 :] if end.status == "complete"]
    for status, runs in (("complete", [name]), ("withdrawn", later)):
        for run in runs:
            path = f"{output_path}/runs/{run}/{MANIFEST}"
            files.replace_text(path, to_json(files.read_json(path) | {"status": status}))
    return Rollback(before, published_run(spark, files, output_path, name), later)
