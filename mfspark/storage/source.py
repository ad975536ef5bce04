"""The input of a run: any source that Spark reads, as `[input]` describes it. Runs on the driver."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.readwriter import DataFrameReader
from pyspark.sql.types import (
    ByteType,
    DataType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    StructField,
    StructType,
)

from mfspark.config.sections import InputConfig, SourceConfig
from mfspark.engine.failures import SPARK_ERRORS, first_line, store_failure
from mfspark.engine.files import FileStore
from mfspark.engine.parquet import parquet_types
from mfspark.engine.paths import literal
from mfspark.engine.session import analyzed, is_connect
from mfspark.errors import ConfigError, DataError, OutputError

logger = logging.getLogger(__name__)

ColumnTypes = dict[str, dict[DataType | None, str]]
"""For each column, its types and for each type a file that has it; None is a type that Spark does not read."""

# Parts of Spark's messages when it refuses one column, or different columns in different files, and not a broken file.
_REFUSED_FOR_A_COLUMN = (
    "PARQUET_TYPE_ILLEGAL", "UNSUPPORTED_TIME_TYPE", "COLUMN_ALREADY_EXISTS", "CANNOT_MERGE", "Failed merging schema",
)  # fmt: skip
_WIDER: tuple[tuple[DataType, ...], ...] = (
    (ByteType(), ShortType(), IntegerType(), LongType()),
    (FloatType(), DoubleType()),
)
# Names in the folder of a table whose rows are not simply those of its Parquet files.
_TABLE_FORMATS = {"_delta_log": "delta", ".hoodie": "hudi"}
_OTHER_FILES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".orc": "orc", ".avro": "avro"}
_NO_VERSION = ("VERSION_NOT_FOUND", "Cannot find snapshot")
_GLOB = re.compile(r"[*?\[{]")


def read_source(spark: SparkSession, config: SourceConfig) -> DataFrame:
    """Read all rows of a source.

    Raises
    ------
    DataError    it does not exist, cannot be read, or is a table of another format than `format`
    """
    if config.table is not None:
        with _unreadable_is_data_error(spark, config):
            return analyzed(spark.read.options(**_version(config)).table(config.table))
    _require_format(spark, config)
    with _unreadable_is_data_error(spark, config):
        rows = _read_parquet(spark, config) if config.format == "parquet" else _load(spark, config)
        # Only there, because the names of many files take seconds.
        for file in rows.inputFiles()[:1] if config.paths and is_connect(spark) else []:
            FileStore(spark, config.paths[0]).require_seen(unquote(file))
    _log_left_out(spark, config)
    return rows


def ratings_of(source: DataFrame, config: InputConfig) -> DataFrame:
    """Apply the query to the rows of the input; without a query, return the rows.

    Raises
    ------
    DataError      another source of the query cannot be read, see `read_source`
    ConfigError    the query is not valid SQL, or names a table or column that does not exist
    """
    if config.query is None:
        return source
    # A view of its own: Spark Connect looks for a view each time that its rows are read, and runs read several inputs.
    view = f"input_{uuid4().hex}"
    source.createOrReplaceTempView(view)
    for name, other in config.others.items():
        read_source(source.sparkSession, other).createOrReplaceTempView(f"`{name}`")
    try:
        query = config.query.rstrip().rstrip(";")
        return analyzed(source.sparkSession.sql(f"WITH input AS (SELECT * FROM {view}) SELECT * FROM (\n{query}\n)"))
    except PySparkException as error:
        raise ConfigError(f"input.query is not valid: {first_line(error)}") from error


def stamped_files(spark: SparkSession, config: SourceConfig) -> dict[str, str]:
    """The files of a path, each with its size and modification time, by which runs see that a file was changed.

    Cost: lists the files; reads no content.
    """
    with _unreadable_is_data_error(spark, config):
        found = _reader(spark, config, "binaryFile", {}).load(config.paths)
        rows = found.select("path", "length", F.unix_micros("modificationTime").alias("micros")).collect()
    return {row["path"]: f"{row['length']} bytes, {row['micros']} µs" for row in sorted(rows)}


def read_files(source: DataFrame, config: InputConfig, files: list[str]) -> DataFrame:
    """Read some of the files of a source, with the columns that `read_source` found.

    files : names as in `stamped_files`
    """
    spark = source.sparkSession
    reader = _reader(spark, config, config.format, {}).schema(source.schema)
    folders = [path for path in config.paths if not _GLOB.search(path) and FileStore(spark, path).is_folder(path)]
    if len(config.paths) == len(folders) == 1 and config.base_path is None and not config.recursive:
        reader = reader.option("basePath", folders[0])
    with _unreadable_is_data_error(spark, config):
        return analyzed(reader.load([literal(file) for file in files]))


def _load(spark: SparkSession, config: SourceConfig, schema: StructType | None = None, **options: Any) -> DataFrame:
    """Load the rows of a path, or of a data source that has no path.

    schema : schema of the columns in the files; None: Spark infers it
    """

    def load(schema: StructType | None) -> DataFrame:
        reader = _reader(spark, config, config.format, options)
        rows: DataFrame = (reader if schema is None else reader.schema(schema)).load(config.paths or None)
        return rows

    rows = load(schema)
    kept_as_text = _text_of_folders(rows)
    if not kept_as_text:
        return rows
    # Spark reads a folder name such as item_id=00123 as the number 123. Other columns keep the type that it inferred.
    return load(StructType([
        StructField(field.name, StringType()) if field.name in kept_as_text else field for field in rows.schema
    ]))  # fmt: skip


def _reader(spark: SparkSession, config: SourceConfig, source_format: str, options: dict[str, Any]) -> DataFrameReader:
    reader = spark.read.format(source_format).options(**{**config.options, **_version(config), **options})
    if config.recursive:
        reader = reader.option("recursiveFileLookup", True)
    base_path = config.base_path or _base_path(config.paths)
    return reader if base_path is None or config.recursive else reader.option("basePath", base_path)


def _version(config: SourceConfig) -> dict[str, Any]:
    return {} if config.version is None else {"versionAsOf": config.version}


def _read_parquet(spark: SparkSession, config: SourceConfig) -> DataFrame:
    try:
        rows = _load(spark, config)
        # Without mergeSchema, Spark takes the columns from the first file only.
        return rows if len(rows.inputFiles()) < 2 else _load(spark, config, mergeSchema=True)
    except SPARK_ERRORS as error:
        if not any(sign in str(error) for sign in _REFUSED_FOR_A_COLUMN):
            raise
    # Spark's timestamps cannot hold nanoseconds; as whole numbers they sort in the same order.
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", True)
    listed = _reader(spark, config, "binaryFile", {}).load(config.paths).select("path").collect()
    schema, unreadable = _readable_schema(_column_types(spark, sorted(row["path"] for row in listed)))
    if unreadable:
        logger.warning("columns that Spark cannot read are left out: %s", ", ".join(unreadable))
    return _load(spark, config, schema)


def _column_types(spark: SparkSession, files: list[str]) -> ColumnTypes:
    """The types that each column has in these Parquet files.

    Cost: reads the footers one after the other; a footer takes some milliseconds on a local disk, up to 0.1 s on an
    object store.
    """
    types, found = parquet_types(spark), ColumnTypes()
    for file in files:
        for name, kind in types.of(file):
            found.setdefault(name, {}).setdefault(kind, file)
    return found


def _readable_schema(types: ColumnTypes) -> tuple[StructType, list[str]]:
    """The readable columns, each with the widest of its types, and the other columns, each with the reason.

    Raises
    ------
    DataError    no type of a column can hold the values of all files
    """
    schema, unreadable = StructType(), []
    names = [name.lower() for name in types]
    for name, found in types.items():
        if names.count(name.lower()) > 1:
            unreadable.append(f"'{name}' (another column has the same name in other letter case)")
        elif None in found:
            unreadable.append(f"'{name}' (Spark cannot read its type)")
        else:
            schema.add(name, _widest(name, {kind: file for kind, file in found.items() if kind is not None}))
    return schema, unreadable


def _widest(name: str, found: dict[DataType, str]) -> DataType:
    if len(found) == 1:
        return next(iter(found))
    for order in _WIDER:
        if all(kind in order for kind in found):
            return max(found, key=order.index)
    (one, file), (other, other_file), *_ = found.items()
    raise DataError(
        f"column '{name}' is {one.simpleString()} in '{file}' and {other.simpleString()} in '{other_file}'; write both "
        "files with one type"
    )


def _text_of_folders(rows: DataFrame) -> set[str]:
    """Columns from names of folders such as item_id=00123, which would lose their zeros as numbers."""
    numbers = {field.name for field in rows.schema if isinstance(field.dataType, IntegerType | LongType)}
    found: set[str] = set()
    for file in rows.inputFiles():
        for part in PurePosixPath(file).parent.parts:
            name, equals, value = unquote(part).partition("=")
            if equals and name in numbers and value.lstrip("-").isdecimal() and str(int(value)) != value:
                found.add(name)
    return found


def _base_path(paths: Iterable[str]) -> str | None:
    """The folder above the first name=value in the paths; without it, Spark would not make that name a column."""
    bases = set()
    for path in paths:
        parts = path.split("/")
        places = [i for i, part in enumerate(parts) if "=" in part]
        if not places or _GLOB.search("/".join(parts[: places[0]])):
            return None
        bases.add("/".join(parts[: places[0]]))
    return bases.pop() if len(bases) == 1 else None


def _require_format(spark: SparkSession, config: SourceConfig) -> None:
    """Raise DataError if a path is the folder of a Delta, Hudi or Iceberg table and `format` does not say so.

    The files of such a table also hold deleted and replaced rows.
    """
    for path in config.paths:
        parts = _GLOB.split(path)[0].rstrip("/").split("/")
        # A path to one partition (name=value) of a table also counts: look in the folder of the table.
        while "=" in parts[-1]:
            parts.pop()
        folder = "/".join(parts) or "/"
        try:
            names = FileStore(spark, folder).list_names(folder)
        except OutputError as error:
            raise DataError(f"{_kind(config)} '{config.label}' cannot be read: {error}") from error
        found = next((kind for name, kind in _TABLE_FORMATS.items() if name in names), None)
        if found is None and "metadata" in names:
            inner = FileStore(spark, folder).list_names(f"{folder}/metadata")
            found = "iceberg" if any(name.endswith(".metadata.json") for name in inner) else None
        if found is not None and config.format != found:
            raise DataError(
                f"{_kind(config)} '{folder}' is a table of {found}, and its files also hold rows that were deleted or "
                f"replaced; set {config.section}.format = '{found}', or {config.section}.table, and start Spark with "
                f"the packages of {found}"
            )


def _log_left_out(spark: SparkSession, config: SourceConfig) -> None:
    """Log a warning if there are folders below a path that are not read."""
    if config.recursive:
        return
    for path in config.paths:
        if _GLOB.search(path) or config.format not in ("parquet", "csv", "json", "orc", "text"):
            continue
        folders = _plain_folders(FileStore(spark, path), path)
        if folders:
            logger.warning(
                "%d folders below '%s' are not read, for example %s; set %s.recursive = true to read them",
                len(folders), path, folders[0], config.section,
            )  # fmt: skip


def _plain_folders(files: FileStore, path: str) -> list[str]:
    """Names of the folders in a folder that hold data and are not name=value."""
    names = files.list_names(path) if files.is_folder(path) else []
    return [
        name for name in names if not name.startswith(("_", ".")) and "=" not in name
        and files.is_folder(f"{path.rstrip('/')}/{name}")
    ]  # fmt: skip


@contextmanager
def _unreadable_is_data_error(spark: SparkSession, config: SourceConfig) -> Iterator[None]:
    try:
        yield
    except SPARK_ERRORS as error:
        raise DataError(_with_remedy(spark, config, error)) from error


def _kind(config: SourceConfig) -> str:
    """What messages call the data of a source."""
    return "the input" if config.section == "input" else f"the source of {config.section}"


def _with_remedy(spark: SparkSession, config: SourceConfig, error: Exception) -> str:
    """The message for a source that cannot be read, with the setting to change."""
    text = str(error)
    what = f"{_kind(config)} '{config.label}'"
    expected = f"expected {config.format} files" if config.table is None else "expected a table of a catalog"
    if "PATH_NOT_FOUND" in text:
        seen = [path for path in config.paths if not _GLOB.search(path) and FileStore(spark, path).exists(path)]
        where = ": this machine has it, but the Spark Connect server does not find it" if seen else ""
        return f"{what} does not exist{where}; {expected}; correct {config.section}.path"
    if "TABLE_OR_VIEW_NOT_FOUND" in text or "SINGLE_PART_NAMESPACE" in text:
        return f"Spark does not find the table of {what}; {expected}; set spark.sql.catalog.… of its catalog"
    if config.version is not None and any(sign in text for sign in _NO_VERSION):
        return (
            f"{what} has no version {config.version}: {first_line(error)}; it was never there, or was removed, as "
            f"VACUUM and expire_snapshots do; correct {config.section}.version"
        )
    if "DATA_SOURCE_NOT_FOUND" in text or "Failed to find data source" in text:
        return f"Spark has no data source '{config.format}'; start Spark with its packages: spark-submit --packages …"
    failure = store_failure(config.paths[0], error) if config.paths else None
    if failure is not None:
        return f"{what} cannot be read: {failure}"
    if "UNABLE_TO_INFER_SCHEMA" in text:
        return f"{what} has no {config.format} file; {expected}{_hint(spark, config)}"
    return f"{what} cannot be read: {first_line(error)}; {expected}{_hint(spark, config)}"


def _hint(spark: SparkSession, config: SourceConfig) -> str:
    """The setting that would read the files, guessed from the names of files and folders; "" if none is guessed."""
    for path in [path for path in config.paths if "://" not in path]:
        files = FileStore(spark, path)
        for name in [path, *([] if _GLOB.search(path) else files.list_names(path))]:
            for suffix in PurePosixPath(name).suffixes:
                found = _OTHER_FILES.get(suffix.lower())
                if found and found != config.format:
                    header = f", and {config.section}.options = {{ header = true }} if the first line has the names"
                    return f"; for {found} set {config.section}.format = '{found}'{header if found == 'csv' else ''}"
        folders = [] if _GLOB.search(path) or config.recursive else _plain_folders(files, path)
        if folders:
            return f"; to read the files in folders such as '{folders[0]}' set {config.section}.recursive = true"
    return ""
