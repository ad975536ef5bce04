"""The tables of a run, and what a scan of the input may find."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from mfspark.engine.failures import SPARK_ERRORS, cluster_failure, first_line
from mfspark.engine.files import FileStore
from mfspark.engine.paths import hidden, literal
from mfspark.errors import DataError, OutputError

# Parts of Spark's messages; its error conditions get lost when an error passes through a task. Spark may notice a
# damaged column only when it decodes a value. That is not a file error, but the Java stack names the Parquet reader.
_UNREADABLE = (
    "FAILED_READ_FILE", "CANNOT_READ_FILE_FOOTER", "is not a Parquet file", "CANNOT_MERGE_SCHEMA",
    "datasources.parquet.ParquetDictionary", "datasources.parquet.Vectorized",
)  # fmt: skip
_GONE = ("FILE_NOT_EXIST", "NotFoundException: File does not exist")  # the second from Iceberg
_UNWRITABLE = ("IOException", "Permission denied", "No space left", "Mkdirs failed")


@contextmanager
def unreadable_input_is_data_error() -> Iterator[None]:
    """Raise DataError if an input file is unreadable or gone during a scan."""
    try:
        yield
    except SPARK_ERRORS as error:
        if any(sign in str(error) for sign in _GONE):
            raise DataError(
                f"an input file is gone: {first_line(error)}; it was removed while the job ran, or the version of the "
                "table that input.version names was removed by VACUUM; start the run over, or read a newer version"
            ) from error
        if any(sign in str(error) for sign in _UNREADABLE):
            raise DataError(
                f"cannot read an input file: {first_line(error)}; replace it or remove it from input.path"
            ) from error
        raise


def read_table(spark: SparkSession, path: str, schema: StructType | None = None) -> DataFrame:
    """Read a table of a run.

    schema : of the table, if known; else one Spark job reads it from a file
    """
    reader = spark.read if schema is None else spark.read.schema(schema)
    return reader.parquet(literal(path))


def write_table(table: DataFrame, path: str, partition_by: str | None = None) -> None:
    """Write a table as Parquet; replace the output of an earlier attempt.

    Raises
    ------
    OutputError    the table cannot be written
    """
    try:
        table.write.parquet(path, mode="overwrite", partitionBy=partition_by)
    except SPARK_ERRORS as error:
        is_unreadable = any(sign in str(error) for sign in _UNREADABLE)
        if any(sign in str(error) for sign in _UNWRITABLE) and not is_unreadable and cluster_failure(error) is None:
            raise OutputError(
                f"cannot write '{path}': {first_line(error)}; check the free space and permissions of output.path"
            ) from error
        raise


def write_whole_table(table: DataFrame, path: str, *, overwrite: bool = False) -> None:
    """Write a table of its own: it appears when it is whole, by a rename; on an object store when _SUCCESS appears.

    Raises
    ------
    OutputError    there is something at the path and it may not be overwritten, or the table cannot be written
    """
    path = path.rstrip("/")
    files = FileStore(table.sparkSession, path)
    _require_free(path, exists=files.exists(path), overwrite=overwrite)
    files.require_shared(os.path.dirname(path) or ".")
    new = hidden(path, uuid4().hex)
    try:
        write_table(table, new)
        files.replace_folder(new, path, "_SUCCESS")
    finally:
        files.delete(new)


def write_whole_text(spark: SparkSession, text: str, path: str, *, overwrite: bool = False) -> None:
    """Write a file of its own: it appears when it is whole.

    Raises
    ------
    OutputError    there is something at the path and it may not be overwritten, or the file cannot be written
    """
    files = FileStore(spark, path)
    _require_free(path, exists=files.exists(path), overwrite=overwrite)
    files.replace_text(path, text)


@contextmanager
def whole_folder(path: str, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder of this machine to write into; it appears at the path when the context ends well.

    Raises
    ------
    OutputError    there is something at the path and it may not be overwritten, or the folder cannot be written
    """
    target = Path(path)
    _require_free(path, exists=target.exists(), overwrite=overwrite)
    try:
        with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
            new = Path(temporary, "new")
            new.mkdir()
            yield new
            if target.exists():
                target.rename(Path(temporary, "old"))
            new.rename(target)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror}; check the space and permissions there") from error


def _require_free(path: str, *, exists: bool, overwrite: bool) -> None:
    if exists and not overwrite:
        raise OutputError(f"'{path}' exists already; write elsewhere, or replace it with --overwrite")
