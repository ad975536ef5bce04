"""Incremental runs: which rows a run reads, and whether it can reuse ratings and factors of its base run."""

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from pyspark.sql import DataFrame

from mfspark.config.sections import PipelineConfig
from mfspark.errors import ConfigError, DataError, SchemaError
from mfspark.storage.runs import JUDGED_FACTORS, PublishedRun, Run
from mfspark.storage.source import ratings_of, read_files, read_source, stamped_files
from mfspark.storage.table_versions import (
    ChangedRows,
    NoChangesError,
    Version,
    at_version,
    changed_rows,
    version_read,
    version_to_read,
)
from mfspark.tables.columns import column
from mfspark.tables.ingest import accepted_ratings, require_rating_schema
from mfspark.tables.split import PART, PARTS

logger = logging.getLogger(__name__)

_USES_OF_INPUT = ("input.", "columns.", "split.")
# These change nothing in the ratings of a file or version; excluded files are missing from the list of files.
_OTHER_USES = (
    "input.max_rejected_share", "input.incremental", "input.exclude", "input.exclude_runs", "input.version",
)  # fmt: skip
_COLUMNS_OF_FACTORS = ("train.rank", "train.biases")


Files = dict[str, str | None]
"""Input files, each with its size and modification time; None where runs do not compare files."""


class RowsToRead(NamedTuple):
    """What a run reads."""

    raw: DataFrame
    """Rows of the input, after its query."""
    carried: DataFrame | None
    """Ratings of the base run that need no second reading and were not deleted since; None: all are read."""
    n_carried: int

    def with_carried(self, ratings: DataFrame) -> DataFrame:
        """These ratings, made from the rows, together with those carried over."""
        return ratings if self.carried is None else self.carried.unionByName(ratings)


def rows_to_read(config: PipelineConfig, run: Run) -> RowsToRead | None:
    """The rows of the input that a run has to read: all, or only those that are new since its base run.

    The manifest gets what was read: the version of the table, or the list of all files and that of the new ones. None:
    nothing changed since the base run.
    """
    version = version_to_read(run.spark, config.input)
    if version is not None:
        return _rows_of_version(config, run, version)
    source = read_source(run.spark, config.input)
    if not config.input.compares_files:
        if config.input.incremental:
            raise ConfigError(
                f"'{config.input.label}' does not tell what changed; input.incremental works with files, and "
                "with tables of Delta or Iceberg whose history this job may read"
            )
        _note_files(run, dict.fromkeys(sorted(source.inputFiles())))
        return RowsToRead(ratings_of(source, config.input), None, 0)
    files = _without_excluded(config, run, stamped_files(run.spark, config.input))
    new, base = _note_files(run, files), run.base
    carried, n_carried = None, 0
    if base is not None and has_what_was_read(config, base, files):
        if not new and not config.changes_since(base.manifest["config"]):
            return None
        logger.info("%d of %d files are new since run %s", len(new), len(files), base.name)
        if new:
            files, (carried, n_carried) = new, _ratings_of(base)
    return RowsToRead(ratings_of(read_files(source, config.input, list(files)), config.input), carried, n_carried)


def _rows_of_version(config: PipelineConfig, run: Run, version: Version) -> RowsToRead | None:
    """The rows of a table of Delta or Iceberg that a run has to read, as `rows_to_read` returns them.

    Raises
    ------
    SchemaError    the columns have other types than those that the base run read
    """
    run.manifest["input_version"] = version._asdict()
    table = ratings_of(read_source(run.spark, at_version(config.input, version)), config.input)
    whole, base = RowsToRead(table, None, 0), run.base
    if base is None:
        return whole
    _require_same_types(config, base, table)
    try:
        changed = _changed_since(config, base, version)
    except NoChangesError as reason:
        logger.info("reading the whole table, not only what changed since run %s: %s", base.name, reason)
        return whole
    if not changed.n_inserted and not changed.n_deleted:
        return whole if config.changes_since(base.manifest["config"]).keys() - {"input.version"} else None
    logger.info(
        "%d rows were inserted and %d deleted since run %s; an update counts as both",
        changed.n_inserted, changed.n_deleted, base.name,
    )  # fmt: skip
    carried, n_carried = _ratings_of(base)
    if changed.n_deleted:
        deleted = accepted_ratings(changed.deleted, config.columns)
        carried, n_carried = carried.exceptAll(deleted), n_carried - deleted.count()
    return RowsToRead(changed.inserted, carried, n_carried)


def _changed_since(config: PipelineConfig, base: PublishedRun, version: Version) -> ChangedRows:
    """What changed since the base run.

    Raises
    ------
    NoChangesError    the ratings of that run and the changes are not enough to make the ratings of this run
    """
    reason, then = _why_all_is_read(config, base), version_read(base.manifest)
    if config.input.others:  # these may have changed too
        reason = "input.query reads other tables"
    if reason is not None or then is None:
        raise NoChangesError(reason or "that run did not read a table")
    columns = [column(name) for name in config.columns.used]
    changed = changed_rows(
        base.spark, config.input, then, version, lambda rows: ratings_of(rows, config.input).select(*columns)
    )
    if changed.n_deleted and config.input.duplicates not in ("keep_all", "error"):
        raise NoChangesError(
            f"rows were deleted or updated, and input.duplicates = '{config.input.duplicates}' needs all ratings of a "
            "pair then"
        )
    return changed


def _require_same_types(config: PipelineConfig, base: PublishedRun, table: DataFrame) -> None:
    if not base.has_table("ratings") or _changes_of_input(config, base):
        return
    require_rating_schema(table, config.columns)
    then, now = (dict(rows.dtypes) for rows in (_ratings_of(base)[0], accepted_ratings(table, config.columns)))
    if then != now:
        columns = ", ".join(f"{name} was {then[name]} and is {now[name]}" for name in now if then[name] != now[name])
        raise SchemaError(
            f"the types of the input have changed since run {base.name}: {columns}; an incremental run needs the same; "
            "correct the table, or run once with --set input.incremental=false"
        )


def _ratings_of(base: PublishedRun) -> tuple[DataFrame, int]:
    """The ratings that the base run kept, and their number."""
    return base.read_table("ratings").drop(PART), sum(base.metrics["rows"][part] for part in PARTS)


def _note_files(run: Run, files: Files) -> Files:
    """Write the lists of the files into the manifest; return those that the base run did not read."""
    known = {} if run.base is None else run.base.manifest["input_files"]
    new = {file: stamp for file, stamp in files.items() if file not in known or known[file] != stamp}
    run.manifest["input_files"], run.manifest["new_files"] = files, [f"{file} {new[file]}" for file in new]
    return new


def _without_excluded(config: PipelineConfig, run: Run, files: Mapping[str, str]) -> Files:
    """The input files that neither a pattern of `input.exclude` nor a run of `input.exclude_runs` excludes.

    The manifest lists the files of each excluded run, so that later runs can exclude them after its folder is removed.

    Raises
    ------
    ConfigError    there is no list of the files of an excluded run
    DataError      every file is excluded
    """
    by_run = run.manifest["excluded_runs"] = {name: _files_of(run, name) for name in config.input.exclude_runs}
    named = {file for found in by_run.values() for file in found}
    kept: Files = {
        file: stamp
        for file, stamp in files.items()
        # If a file was corrected in place after the excluded run read it, it is read again.
        if f"{file} {stamp}" not in named and not any(fnmatchcase(file, pattern) for pattern in config.input.exclude)
    }
    if not kept and files:
        raise DataError(
            f"input.exclude and input.exclude_runs exclude all {len(files)} input files, for example "
            f"'{next(iter(files))}'; expected at least one file to read; correct them"
        )
    if len(kept) < len(files):
        logger.info("%d of %d files are excluded", len(files) - len(kept), len(files))
    return kept


def _files_of(run: Run, name: str) -> list[str]:
    """The new files of a run, which no run before it had read, each as 'URI size, time'."""
    manifest = run.manifest_of(name)
    found: list[str] | None = manifest.get("new_files") if manifest else None
    if found is None and run.base is not None:  # its folder may be gone
        found = run.base.manifest.get("excluded_runs", {}).get(name)
    if found is None:
        raise ConfigError(
            f"input.exclude_runs: '{run.output_path}' has no run '{name}' that lists its new files; exclude its files "
            "with input.exclude instead"
        )
    return found


def has_what_was_read(config: PipelineConfig, base: PublishedRun, files: Mapping[str, str | None]) -> bool:
    """Whether this run can reuse the ratings of an earlier run and read only new files.

    It can if all files of that run are still there, unchanged, and the settings of the input are the same. Otherwise
    the log says why not.

    files : the input files of this run, each with its size and modification time
    """
    reason = _why_all_is_read(config, base)
    gone = [file for file, stamp in base.manifest["input_files"].items() if files.get(file) != stamp]
    if reason is None and gone:
        reason = f"{len(gone)} of its files were changed or removed, for example '{gone[0]}'"
    if reason is not None:
        logger.info("reading all files, not only the new ones since run %s: %s", base.name, reason)
    return reason is None


def _why_all_is_read(config: PipelineConfig, base: PublishedRun) -> str | None:
    """Why the ratings of an earlier run cannot be reused, whatever is new; None if they can."""
    uses = _changes_of_input(config, base)
    if uses:
        return f"settings differ: {', '.join(uses)}"
    if not base.has_table("ratings"):
        return "that run was not incremental and kept no ratings"
    if config.input.duplicates == "mean":
        return "input.duplicates = 'mean' needs all ratings of a pair"
    return None


def _changes_of_input(config: PipelineConfig, base: PublishedRun) -> list[str]:
    """The settings that differ from those of an earlier run and decide which ratings the input has."""
    changes = config.changes_since(base.manifest["config"])
    return [key for key in changes if key.startswith(_USES_OF_INPUT) and key not in _OTHER_USES]


def has_same_factors(config: PipelineConfig, base: PublishedRun) -> bool:
    """Whether training can start from the factors that an earlier run trained without its holdout."""
    columns = [key for key in config.changes_since(base.manifest["config"]) if key in _COLUMNS_OF_FACTORS]
    if columns:
        reason = f"settings differ: {', '.join(columns)}"
    elif "refit" in base.metrics and not all(map(base.has_table, JUDGED_FACTORS)):
        # The published factors were trained on the holdout, so the holdout metrics would be too good.
        reason = "that run was not incremental and kept only factors that were trained on the holdout too"
    else:
        return True
    logger.info("training starts from random factors, not from run %s: %s", base.name, reason)
    return False
