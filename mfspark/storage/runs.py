"""Runs: one folder each, invisible to readers until CURRENT names it.

::

    <output.path>/
      CURRENT                 the run id that readers should use
      runs/<run_id>/          tables, metrics.json, manifest.json
      runs/<run_id>.next/     a repetition of a run that is already published; takes its place at the end

A run is filled step by step. The manifest says how far it got; it is rewritten after each step, atomically.
"""

import json
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from pyspark.sql import DataFrame, SparkSession

from mfspark.config import PipelineConfig
from mfspark.errors import ConfigError, OutputError
from mfspark.storage.files import FileStore
from mfspark.storage.tables import write_table
from mfspark.versions import versions

OpenMode = Literal["new", "continue", "resume", "overwrite"]
"""`new` refuses a run id that exists; `continue` adds a step to an unfinished run; `resume` does either;
`overwrite` starts again from nothing."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NEXT_SUFFIX, _OLD_SUFFIX = ".next", ".old"


def new_run_id() -> str:
    """Time of the start in UTC, as 20260131T235959Z."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def require_run_id(run_id: str) -> None:
    """Raise ConfigError unless the id is a plain folder name."""
    if not _RUN_ID.fullmatch(run_id) or run_id.endswith((_NEXT_SUFFIX, _OLD_SUFFIX)):
        raise ConfigError(
            f"run id '{run_id}' is not allowed; expected 1 to 128 letters, digits, '.', '_' or '-', the first a "
            f"letter or digit, not ending in '{_NEXT_SUFFIX}' or '{_OLD_SUFFIX}'"
        )


@dataclass
class Run:
    """One run being filled. Made by `open_run`."""

    spark: SparkSession
    files: FileStore
    output_path: str
    run_id: str
    folder: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]

    def is_done(self, step: str) -> bool:
        """Whether an earlier attempt has finished this step."""
        return step in self.manifest["steps"]

    def forget_from(self, step: str) -> None:
        """Have this step, and what was done after it, done again."""
        if self.is_done(step):
            del self.manifest["steps"][self.manifest["steps"].index(step) :]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and record that it is done; record the error if it fails."""
        started = time.monotonic()
        try:
            yield
        except BaseException as error:
            self._record_failure(name, error)
            raise
        self.metrics.setdefault("seconds", {})[name] = round(time.monotonic() - started, 3)
        self.manifest["steps"].append(name)
        self._save()

    def path(self, table: str) -> str:
        """Where a table of this run is."""
        return f"{self.folder}/{table}"

    def write_table(self, name: str, table: DataFrame, partition_by: str | None = None) -> None:
        """Write a table and note its schema in the manifest."""
        write_table(table, self.path(name), partition_by)
        self.manifest["tables"][name] = {"schema": table.schema.simpleString()}

    def read_table(self, name: str) -> DataFrame:
        """Read a table that an earlier step wrote."""
        return self.spark.read.parquet(self.path(name))

    def drop_table(self, name: str) -> None:
        """Remove a table that only later steps of this run needed."""
        self.files.delete(self.path(name))
        self.manifest["tables"].pop(name, None)

    def publish(self) -> None:
        """Make this run the one that readers use: complete the manifest, then switch CURRENT, last."""
        self.manifest["status"] = "complete"
        self.manifest["finished"] = _now()
        self._save()
        final = _run_folder(self.output_path, self.run_id)
        if self.folder != final:
            _swap(self.files, self.folder, final)
            self.folder = final
        self.files.replace_text(f"{self.output_path}/CURRENT", self.run_id + "\n")

    def _record_failure(self, step: str, error: BaseException) -> None:
        self.manifest["status"] = "failed"
        self.manifest["error"] = {
            "step": step,
            "type": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc(),
        }
        try:
            self._save()
        except OutputError as save_error:
            error.__context__ = save_error  # the step's own error is the one to report

    def _save(self) -> None:
        self.files.replace_text(self.path("metrics.json"), _to_json(self.metrics))
        self.files.replace_text(self.path("manifest.json"), _to_json(self.manifest))


def open_run(spark: SparkSession, config: PipelineConfig, run_id: str, mode: OpenMode) -> Run:
    """Start a run or go on with one.

    Raises
    ------
    OutputError    the run id is taken, is not there to go on with, or the output cannot be written
    ConfigError    going on with another configuration than the run was started with; names the keys
    """
    require_run_id(run_id)
    output_path = config.output.path.rstrip("/")
    files = FileStore(spark, output_path)
    final = _run_folder(output_path, run_id)
    _finish_interrupted_swap(files, final)
    is_published = _is_complete(files, final)
    unfinished = _unfinished_folder(files, final)
    where = f"run '{run_id}' in '{output_path}'"
    if mode == "new" and is_published:
        raise OutputError(f"{where} is published; repeat it with --overwrite or choose another --run-id")
    if mode == "new" and unfinished:
        raise OutputError(f"{where} is unfinished; go on with --resume or start again with --overwrite")
    if mode == "resume" and is_published and _is_newer_than_current(files, output_path, final):
        unfinished = final  # all is done but the switch of CURRENT
    if mode in ("continue", "resume") and unfinished:
        return _reopen(spark, files, config, run_id, unfinished)
    if mode in ("continue", "resume") and is_published:
        raise OutputError(f"{where} is published already; repeat it from its ingest with --overwrite")
    if mode == "continue":
        raise OutputError(f"{where} does not exist; start it with the ingest step and this --run-id")
    folder = final + _NEXT_SUFFIX if is_published else final
    if mode == "overwrite":
        files.delete(folder)
    return _create(spark, files, config, run_id, folder)


def _create(spark: SparkSession, files: FileStore, config: PipelineConfig, run_id: str, folder: str) -> Run:
    manifest = {
        "run_id": run_id,
        "status": "running",
        "started": _now(),
        "config": config.as_dict(),
        "config_hash": config.hash(),
        "versions": versions(spark),
        "input_files": [],
        "steps": [],
        "tables": {},
    }
    files.create_folder(folder)
    # Fails if another job has just created the same run: the file is the claim.
    files.create_text(f"{folder}/manifest.json", _to_json(manifest))
    return Run(spark, files, config.output.path.rstrip("/"), run_id, folder, manifest, {})


def _reopen(spark: SparkSession, files: FileStore, config: PipelineConfig, run_id: str, folder: str) -> Run:
    manifest_path = f"{folder}/manifest.json"
    if not files.exists(manifest_path):  # the job ended before its first write
        return _create(spark, files, config, run_id, folder)
    manifest = json.loads(files.read_text(manifest_path))
    different = _different_keys(manifest["config"], config.as_dict())
    if different:
        raise ConfigError(
            f"run '{run_id}' was started with another configuration; different: {', '.join(different)}; use the same "
            "one or another --run-id"
        )
    metrics_path = f"{folder}/metrics.json"
    metrics = json.loads(files.read_text(metrics_path)) if files.exists(metrics_path) else {}
    manifest["status"] = "running"
    manifest.pop("error", None)
    return Run(spark, files, config.output.path.rstrip("/"), run_id, folder, manifest, metrics)


def _is_complete(files: FileStore, folder: str) -> bool:
    manifest_path = f"{folder}/manifest.json"
    return files.exists(manifest_path) and json.loads(files.read_text(manifest_path))["status"] == "complete"


def _unfinished_folder(files: FileStore, final: str) -> str | None:
    """The folder of this run id that still waits to be published, if there is one."""
    following = final + _NEXT_SUFFIX
    if files.exists(following):
        return following
    return final if files.exists(final) and not _is_complete(files, final) else None


def _is_newer_than_current(files: FileStore, output_path: str, folder: str) -> bool:
    """Whether a complete run has finished after the one that readers use, or there is none."""
    current_path = f"{output_path}/CURRENT"
    if not files.exists(current_path):
        return True
    current = _run_folder(output_path, files.read_text(current_path).strip())
    finished, current_finished = (
        json.loads(files.read_text(f"{run}/manifest.json")).get("finished", "") for run in (folder, current)
    )
    return bool(finished > current_finished)


def _swap(files: FileStore, new: str, final: str) -> None:
    """Put a repeated run in the place of its older self; `_finish_interrupted_swap` mends a crash between."""
    old = final + _OLD_SUFFIX
    files.rename(final, old)
    files.rename(new, final)
    files.delete(old)


def _finish_interrupted_swap(files: FileStore, final: str) -> None:
    old = final + _OLD_SUFFIX
    if not files.exists(old):
        return
    if files.exists(final):
        files.delete(old)
    else:
        files.rename(old, final)


def _run_folder(output_path: str, run_id: str) -> str:
    return f"{output_path}/runs/{run_id}"


def _different_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What changes the content of a run; where it lies does not."""
    return [
        f"{section}.{key} ({before.get(section, {}).get(key)!r} then, {value!r} now)"
        for section, values in now.items()
        for key, value in values.items()
        if section != "output" and before.get(section, {}).get(key) != value
    ]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, default=str) + "\n"
