"""Runs. Each has its own folder, which readers do not see until CURRENT names it.

::

    <output.path>/
      .lock-*                 lock of the job that writes a run, see `storage/lock.py`
      CURRENT                 the name of the folder in runs/ that readers should use
      runs/<run_id>/          tables, metrics.json, manifest.json; job.log, if the folder is on the driver's machine
      runs/<run_id>@2/        the first repetition of a run that was published; then @3, …
                              (also the second folder of a run, if its first job may still write into the first)
      runs/.*                 runs that are being removed, see `storage/retention.py`

Each step writes its tables into the folder; after each step the manifest, which lists the finished steps, is replaced
atomically. Tables and metrics of a published run never change, so a repetition gets a new folder.
"""

import json
import logging
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from mfspark.config.sections import OutputConfig, PipelineConfig
from mfspark.engine.files import FileStore
from mfspark.engine.jobs import named_jobs
from mfspark.engine.session import recover
from mfspark.errors import ConfigError, OutputError, interrupt_behind
from mfspark.storage.catalog import CatalogSchema, replace_all
from mfspark.storage.catalog_tables import CatalogTables
from mfspark.storage.lock import OutputLock
from mfspark.storage.retention import MANIFEST, RunEnd, current_name, prune_runs, remove_run, run_end
from mfspark.storage.tables import read_table, write_table
from mfspark.storage.versions import versions
from mfspark.storage.views import Views

logger = logging.getLogger(__name__)

OpenMode = Literal["new", "continue", "resume", "repeat", "overwrite"]
"""`new`: the run id must not exist; `continue`: it must exist, and a published run stays unchanged; `resume`: either;
`repeat`: continue an unfinished run and repeat a step; `overwrite`: start over."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REPETITION = "@"  # not allowed in a run id

CHECKPOINT = "checkpoint"
"""Folder in a run for the checkpoints of an unfinished training."""

FACTORS = ("user_factors", "item_factors")
"""Tables of the published factors; after a refit they are trained on all ratings."""
JUDGED_FACTORS = ("judged_user_factors", "judged_item_factors")
"""Tables of the factors that were trained without the holdout; only in a run with a refit."""
KEPT_FOR_INCREMENTS = ("ratings", *JUDGED_FACTORS)
"""Tables of a published run that only the next incremental run reads."""


def new_run_id() -> str:
    """The time now in UTC as a run id, for example 20260131T235959.123456Z."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")


def require_run_id(run_id: str) -> None:
    """Raise ConfigError unless the id is a plain folder name."""
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigError(
            f"run id '{run_id}' is not allowed; expected 1 to 128 letters, digits, '.', '_' or '-', starting with a "
            "letter or digit"
        )


@dataclass(frozen=True)
class PublishedRun:
    """A run that CURRENT names or has named, to read from."""

    spark: SparkSession
    folder: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.rpartition("/")[2]

    def has_table(self, name: str) -> bool:
        """Whether the run has this table."""
        return name in self.manifest["tables"]

    def read_table(self, name: str) -> DataFrame:
        """Read one of its tables."""
        return read_table(self.spark, f"{self.folder}/{name}")


@dataclass
class Run:
    """A run that this job writes. `open_run` creates it."""

    spark: SparkSession
    lock: OutputLock
    output_path: str
    run_id: str
    folder: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    keep_runs: int | None = None
    """How many runs to keep, see `storage/retention.py`."""
    catalogs: tuple[CatalogSchema, ...] = ()
    """The schemas that show the current run."""
    current_step: str = ""
    _schemas: dict[str, StructType] = field(default_factory=dict)
    """Schemas of the tables that this job has written."""

    @property
    def files(self) -> FileStore:
        """The file system of the output."""
        return self.lock.files

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.rpartition("/")[2]

    @property
    def local_folder(self) -> Path | None:
        """The folder as a local path; None if it is on another machine or the run is published and must not change."""
        return None if self.is_published else self.files.local_path(self.folder)

    @property
    def is_published(self) -> bool:
        """Whether this run, or a later one, was published, so that there is nothing left to do."""
        status: str = self.manifest["status"]
        return status == "complete"

    @property
    def is_unchanged(self) -> bool:
        """Whether this incremental run found nothing new."""
        status: str = self.manifest["status"]
        return status == "unchanged"

    @property
    def base(self) -> PublishedRun | None:
        """The run that CURRENT named when this incremental run started; None for other runs.

        Raises
        ------
        OutputError    that run was removed since
        """
        name = self.manifest["base"]
        return None if name is None else self._published(name)

    def manifest_of(self, name: str) -> dict[str, Any] | None:
        """The manifest of another run of this output; None if there is none."""
        path = f"{self.output_path}/runs/{name}/{MANIFEST}"
        return self.files.read_json(path) if self.files.exists(path) else None

    def current(self) -> PublishedRun | None:
        """The run that readers use now, if there is one."""
        name = current_name(self.files, self.output_path)
        return None if name is None else self._published(name)

    def _published(self, name: str) -> PublishedRun:
        return published_run(self.spark, self.files, self.output_path, name)

    def is_done(self, step: str) -> bool:
        """Whether an earlier attempt finished this step."""
        return step in self.manifest["steps"]

    def forget_from(self, step: str) -> None:
        """Mark this step and all later ones as not done, and delete the checkpoints."""
        if self.is_done(step):
            del self.manifest["steps"][self.manifest["steps"].index(step) :]
        # Also on disk, so that a half-written new table is not taken for the finished old one.
        self._save()
        self.drop(CHECKPOINT)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step as one Spark job group; record its time, and that it is done or its error."""
        started = time.monotonic()
        self.current_step = name
        try:
            with named_jobs(self.spark, f"{name}: read and count", group=name):
                yield
        except BaseException as error:
            interrupt = interrupt_behind(error)
            if interrupt is None:
                self._record_failure("failed", name, error)
                self._tidy()
                raise
            recover(self.spark)
            self._record_failure("interrupted", name, interrupt)
            raise interrupt from None
        self.metrics.setdefault("seconds", {})[name] = round(time.monotonic() - started, 3)
        self.manifest["steps"].append(name)
        self._save()

    def path(self, name: str) -> str:
        """Path of a table or file of this run."""
        return f"{self.folder}/{name}"

    def write_table(self, name: str, table: DataFrame, partition_by: str | None = None) -> None:
        """Write a table and note its schema in the manifest."""
        with named_jobs(self.spark, f"{self.current_step}: write {name}"):
            write_table(table, self.path(name), partition_by)
        self._schemas[name] = table.schema
        self.manifest["tables"][name] = {"schema": table.schema.simpleString()}

    def read_table(self, name: str) -> DataFrame:
        """Read a table that an earlier step wrote."""
        return read_table(self.spark, self.path(name), self._schemas.get(name))

    def read_text(self, name: str) -> str | None:
        """Content of a file of this run; None if there is no such file."""
        return self.files.read_text(self.path(name)) if self.files.exists(self.path(name)) else None

    def write_text(self, name: str, text: str) -> None:
        """Write a file of this run."""
        self.files.replace_text(self.path(name), text)

    def drop(self, name: str) -> None:
        """Remove a table or folder of this run."""
        self.files.delete(self.path(name))
        self.manifest["tables"].pop(name, None)

    def publish(self) -> None:
        """Publish this run: complete the manifest and write the name of the run to CURRENT.

        Then replace views and tables of catalogs, and remove old runs, and from the run that CURRENT named before the
        tables that only this run needed.

        Raises
        ------
        OutputError    another job holds the lock of the output now, and CURRENT is unchanged; or the run is published,
                       but a view or table of a catalog could not be replaced
        """
        before = current_name(self.files, self.output_path)
        self.manifest["status"] = "complete"
        self.manifest["finished"] = _now()
        self._save()
        self.lock.require_held()
        self.files.replace_text(f"{self.output_path}/CURRENT", self.name + "\n")
        try:
            self.update_catalogs()
        finally:
            self._tidy(before)

    def update_catalogs(self) -> None:
        """Let catalogs show the run that CURRENT names.

        Raises
        ------
        OutputError    a view or table could not be replaced
        """
        replace_all(self.catalogs)

    def end_unpublished(self, status: Literal["held", "unchanged"]) -> None:
        """End a run that the gate held or that found nothing new: remove old runs, but leave CURRENT as it is."""
        self.manifest["status"] = status
        self.manifest["finished"] = _now()
        self._save()
        self._tidy()

    def _tidy(self, replaced: str | None = None) -> None:
        """Remove old runs, and the tables that the replaced run kept for this one.

        replaced : the run that CURRENT named before this one
        """
        try:
            # A view that was not replaced still names an older run.
            is_safe = all(catalog.are_current() for catalog in self.catalogs if catalog.names_folders)
            prune_runs(self.files, self.output_path, self.keep_runs if is_safe else None, {self.name})
            if replaced not in (None, self.name):
                self._drop_kept_tables(f"{self.output_path}/runs/{replaced}")
        except OutputError as error:  # the next run tries again
            logger.warning("could not remove old runs: %s", error)

    def _drop_kept_tables(self, folder: str) -> None:
        """Remove the tables of an earlier run that only the next incremental run needed."""
        if not self.files.exists(folder):
            return
        manifest = self.files.read_json(f"{folder}/{MANIFEST}")
        kept = [table for table in KEPT_FOR_INCREMENTS if table in manifest["tables"]]
        for table in kept:
            del manifest["tables"][table]
        if kept:
            self.files.replace_text(f"{folder}/{MANIFEST}", to_json(manifest))
        for table in kept:
            self.files.delete(f"{folder}/{table}")

    def _record_failure(self, status: Literal["failed", "interrupted"], step: str, error: BaseException) -> None:
        self.manifest["status"] = status
        self.manifest["error"] = {
            "step": step,
            "type": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc(),
        }
        try:
            self._save()
        except OutputError as save_error:
            error.__context__ = save_error  # the caller raises the error of the step

    def _save(self) -> None:
        self.lock.require_held()
        self.files.replace_text(self.path("metrics.json"), to_json(self.metrics))
        self.files.replace_text(self.path(MANIFEST), to_json(self.manifest))


def published_run(spark: SparkSession, files: FileStore, output_path: str, name: str) -> PublishedRun:
    """Read the published run in the folder with this name.

    Raises
    ------
    OutputError    the folder was removed
    """
    folder = f"{output_path}/runs/{name}"
    if not files.exists(folder):
        raise OutputError(f"run '{name}' in '{output_path}' was removed; start over with --overwrite")
    manifest, metrics = (files.read_json(f"{folder}/{file}.json") for file in ("manifest", "metrics"))
    return PublishedRun(spark, folder, manifest, metrics)


def open_run(spark: SparkSession, config: PipelineConfig, run_id: str, mode: OpenMode, lock: OutputLock) -> Run:
    """Start a run or continue one.

    Raises
    ------
    OutputError    the mode does not allow the run id, because it exists or does not exist; or the output cannot be
                   written
    ConfigError    the run was started with another configuration; the message names the settings
    """
    require_run_id(run_id)
    output_path, files = config.output.path.rstrip("/"), lock.files
    newest = max(_repetitions(files, output_path, run_id), default=0)
    folder = _run_folder(output_path, run_id, newest)
    end = run_end(files, folder) if newest > 0 else None
    is_published = end is not None and end.was_published
    is_unfinished = end is not None and not is_published
    where = f"run '{run_id}' in '{output_path}'"
    _require_mode(mode, end, where)
    if mode in ("continue", "resume") and is_published:
        run = _reopen(spark, lock, config, run_id, folder)
        if not _is_newer_than_current(files, output_path, folder):  # else CURRENT must still be switched to it
            run.manifest["status"] = "complete"
        return run
    if mode in ("continue", "resume", "repeat") and is_unfinished:
        if lock.may_predecessor_live:
            paused, folder = folder, _run_folder(output_path, run_id, newest + 1)
            files.replace_folder(paused, folder, MANIFEST)
        return _reopen(spark, lock, config, run_id, folder)
    is_replaced = is_unfinished and not lock.may_predecessor_live
    if is_replaced:
        remove_run(files, folder)
    repetition = newest if is_replaced else newest + 1
    return _create(spark, lock, config, run_id, _run_folder(output_path, run_id, repetition))


def _require_mode(mode: OpenMode, end: RunEnd | None, where: str) -> None:
    """Raise OutputError if a run may not be opened in this mode.

    end : how the newest folder of the run ended; None if it has no folder
    """
    is_published = end is not None and end.was_published
    if mode == "new" and is_published:
        raise OutputError(f"{where} is already published; repeat it with --overwrite or use another --run-id")
    if mode == "new" and end is not None:
        raise OutputError(f"{where} is unfinished; continue it with --resume or start over with --overwrite")
    if end is not None and end.status == "withdrawn" and mode != "overwrite":
        raise OutputError(f"{where} was withdrawn by a rollback; publish it again with jobs/rollback.py --run-id")
    if mode == "repeat" and is_published:
        raise OutputError(f"{where} is already published; repeat it from the ingest step with --overwrite")
    if mode in ("continue", "repeat") and end is None:
        raise OutputError(f"{where} does not exist; start it with the ingest step and this --run-id")


def _create(spark: SparkSession, lock: OutputLock, config: PipelineConfig, run_id: str, folder: str) -> Run:
    manifest: dict[str, Any] = {
        "run_id": run_id,
        "status": "running",
        "started": _now(),
        "config": config.as_dict(),
        "config_hash": config.hash(),
        "versions": versions(spark),
        "base": current_name(lock.files, config.output.path.rstrip("/")) if config.input.incremental else None,
        "input_files": {},
        "steps": [],
        "tables": {},
    }
    run = _run(spark, lock, config, run_id, folder, manifest, {})
    if not lock.files.is_object_store:
        # In one step: a job that is cut off while it creates a file leaves half of it.
        lock.files.replace_text(run.path(MANIFEST), to_json(manifest))
    # A listing of an object store may not show a run yet; one that exists is not written again.
    elif not lock.files.create_text(run.path(MANIFEST), to_json(manifest)):
        raise OutputError(f"'{folder}' exists already; repeat the run with --overwrite or use another --run-id")
    return run


def _reopen(spark: SparkSession, lock: OutputLock, config: PipelineConfig, run_id: str, folder: str) -> Run:
    files, manifest_path = lock.files, f"{folder}/{MANIFEST}"
    if not files.exists(manifest_path):  # the job ended before its first write, or a store lost its time in a move
        files.delete(folder)
        return _create(spark, lock, config, run_id, folder)
    manifest = files.read_json(manifest_path)
    changes = config.changes_since(manifest["config"])
    different = [f"{key} ({then!r} then, {now!r} now)" for key, (then, now) in changes.items()]
    if different:
        raise ConfigError(
            f"run '{run_id}' was started with another configuration: {', '.join(different)}; use the same "
            "configuration or another --run-id"
        )
    metrics_path = f"{folder}/metrics.json"
    metrics = files.read_json(metrics_path) if files.exists(metrics_path) else {}
    is_ended = manifest["status"] in ("complete", "unchanged")
    if manifest["status"] != "unchanged":
        manifest["status"] = "running"
    manifest.pop("error", None)
    run = _run(spark, lock, config, run_id, folder, manifest, metrics)
    if not is_ended:
        run._save()
    return run


def _run(
    spark: SparkSession, lock: OutputLock, config: PipelineConfig, run_id: str, folder: str,
    manifest: dict[str, Any], metrics: dict[str, Any],
) -> Run:  # fmt: skip
    catalogs = catalogs_of(spark, lock.files, config.output)
    path, keep_runs = config.output.path.rstrip("/"), config.output.keep_runs
    return Run(spark, lock, path, run_id, folder, manifest, metrics, keep_runs, catalogs)


def catalogs_of(spark: SparkSession, files: FileStore, config: OutputConfig) -> tuple[CatalogSchema, ...]:
    """The schemas that show the current run of an output."""
    path, found = config.path.rstrip("/"), list[CatalogSchema]()
    if config.views is not None:
        found.append(Views(spark, files, path, config.views))
    if config.tables is not None and config.table_format is not None:
        found.append(CatalogTables(spark, files, path, config.tables, config.table_format))
    return tuple(found)


def _repetitions(files: FileStore, output_path: str, run_id: str) -> list[int]:
    """Numbers of the folders of a run id; a folder without a number counts as 1."""
    pattern = re.compile(rf"{re.escape(run_id)}(?:{_REPETITION}(\d+))?")
    found = map(pattern.fullmatch, files.list_names(f"{output_path}/runs"))
    return [int(match[1] or 1) for match in found if match]


def _is_newer_than_current(files: FileStore, output_path: str, folder: str) -> bool:
    """Whether a complete run finished after the current run, or there is no current run."""
    name = current_name(files, output_path)
    return name is None or run_end(files, folder).finished > run_end(files, f"{output_path}/runs/{name}").finished


def _run_folder(output_path: str, run_id: str, repetition: int) -> str:
    return f"{output_path}/runs/{run_id}" + (f"{_REPETITION}{repetition}" if repetition > 1 else "")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def to_json(content: dict[str, Any]) -> str:
    """The text of a manifest.json or metrics.json."""
    return json.dumps(content, indent=2, default=str) + "\n"
