"""Versions of Delta and Iceberg tables: which one a run reads, and which rows changed since another one.

Runs on the driver.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark.config.sections import VERSIONED_FORMATS, SourceConfig
from mfspark.engine.failures import SPARK_ERRORS, cluster_failure, first_line
from mfspark.engine.files import FileStore
from mfspark.errors import DataError
from mfspark.storage.source import read_source

logger = logging.getLogger(__name__)

_CHANGE_TYPE = "_change_type"
# Both formats write an update as a deleted and an inserted row. Delta says which rows belong to an update.
_INSERTED = ("insert", "update_postimage")


class Version(NamedTuple):
    """One version of a table."""

    format: str
    """`delta` or `iceberg`."""
    table: str | None
    """Delta's id of the table, because a new table in the same place counts from 0 again. Ids of Iceberg's snapshots
    are never used again."""
    number: int
    """Delta's number of the version, or Iceberg's id of the snapshot."""


class ChangedRows(NamedTuple):
    """The rows by which two versions differ, without those that were inserted and deleted in between."""

    inserted: DataFrame
    deleted: DataFrame
    n_inserted: int
    n_deleted: int


class NoChangesError(Exception):
    """The table does not tell what changed; the message says why."""


def version_to_read(spark: SparkSession, config: SourceConfig) -> Version | None:
    """The version that `version` names, or else the newest; None for a source that has no versions or tells none.

    Raises
    ------
    DataError    a table of Iceberg is empty and has no version yet
    """
    if config.table is None and config.format not in VERSIONED_FORMATS:
        return None
    kind = config.format if config.table is None else format_of(spark, config.table)
    try:
        if kind == "delta":
            return _version_of_delta(spark, config)
        if kind == "iceberg":
            return _version_of_iceberg(spark, config)
    except SPARK_ERRORS as error:  # if the table cannot be read, the caller sees that when it reads
        if cluster_failure(error) is not None:
            raise
        logger.warning("'%s' does not tell its version: %s", config.label, first_line(error))
    return None


def _version_of_delta(spark: SparkSession, config: SourceConfig) -> Version:
    name = config.table
    if name is None:  # SQL needs an absolute path
        path = FileStore(spark, config.paths[0]).qualified(config.paths[0])
        name = f"delta.`{path.replace('`', '``')}`"
    table = _first(spark.sql(f"DESCRIBE DETAIL {name}").select("id"))
    newest = _first(spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").select("version"))
    return Version("delta", table, newest if config.version is None else config.version)


def _version_of_iceberg(spark: SparkSession, config: SourceConfig) -> Version:
    newest = _first(_iceberg(spark, config, "refs").where("name = 'main'").select("snapshot_id"))
    if newest is None:
        raise DataError(f"the input '{config.label}' has no rows; expected at least one rating; fill the table first")
    return Version("iceberg", None, newest if config.version is None else config.version)


def at_version(config: SourceConfig, version: Version | None) -> SourceConfig:
    """The same source, at a version if there is one."""
    return config if version is None else replace(config, version=version.number)


def version_read(manifest: dict[str, Any]) -> Version | None:
    """The version of the input that a run has read, from its manifest; None for a source that has no versions."""
    found = manifest.get("input_version")
    return None if found is None else Version(**found)


def changed_rows(
    spark: SparkSession, config: SourceConfig, then: Version, now: Version, used: Callable[[DataFrame], DataFrame]
) -> ChangedRows:
    """The rows that were inserted and deleted between two versions.

    used : selects what matters of the rows; rows that do not differ in it are not changed

    Cost: reads the changes; two Spark jobs count them, so that a file which is gone fails here and not in a later step.

    Raises
    ------
    NoChangesError    the table keeps no changes, or not these
    """
    if now.table != then.table:
        raise NoChangesError("the table was dropped and created again")
    if now == then:
        nothing = used(read_source(spark, at_version(config, now)).limit(0))
        return ChangedRows(nothing, nothing, 0, 0)
    with _no_changes():
        changes, is_inserted = _changes(spark, config, then, now), F.lower(_CHANGE_TYPE).isin(*_INSERTED)
        inserted, deleted = used(changes.where(is_inserted)), used(changes.where(~is_inserted))
        # Iceberg also reports rows that stayed, if it wrote their file anew.
        inserted, deleted = inserted.exceptAll(deleted), deleted.exceptAll(inserted)
        n_inserted, n_deleted = inserted.count(), deleted.count()
    return ChangedRows(inserted, deleted, n_inserted, n_deleted)


def format_of(spark: SparkSession, table: str) -> str | None:
    """The format of a table of a catalog; None for a view, or if the catalog does not say."""
    try:
        rows = spark.sql(f"DESCRIBE TABLE EXTENDED {table}").where("col_name = 'Provider'").collect()
    except SPARK_ERRORS as error:
        if cluster_failure(error) is not None:
            raise
        return None
    return str(rows[-1]["data_type"]).lower() if rows else None  # columns come first, and one may have this name


def _changes(spark: SparkSession, config: SourceConfig, then: Version, now: Version) -> DataFrame:
    if now.format == "iceberg":
        options = {"start-snapshot-id": str(then.number), "end-snapshot-id": str(now.number)}
        return _iceberg(spark, config, "changes", options)
    options = {"readChangeFeed": "true", "startingVersion": str(then.number + 1), "endingVersion": str(now.number)}
    reader = spark.read.format("delta").options(**{**config.options, **options})
    return reader.load(config.paths[0]) if config.table is None else reader.table(config.table)


def _iceberg(spark: SparkSession, config: SourceConfig, of: str, options: dict[str, str] | None = None) -> DataFrame:
    """One of the tables that Iceberg keeps about a table."""
    reader = spark.read.format("iceberg").options(**{**config.options, **(options or {})})
    return reader.load(f"{config.paths[0]}#{of}") if config.table is None else reader.table(f"{config.table}.{of}")


def _first(column: DataFrame) -> Any:
    """The first value of a column; None if there is none."""
    row = column.first()
    return None if row is None else row[0]


@contextmanager
def _no_changes() -> Iterator[None]:
    try:
        yield
    except SPARK_ERRORS as error:
        if cluster_failure(error) is not None:
            raise
        raise NoChangesError(first_line(error)) from error
