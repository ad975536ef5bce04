"""Reads ratings; reads and writes the tables of a run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from mfspark.engine.failures import cluster_failure, first_line
from mfspark.errors import DataError, OutputError
from mfspark.storage.files import FileStore

_REASONS = {
    "PATH_NOT_FOUND": "does not exist",
    "UNABLE_TO_INFER_SCHEMA": "holds no Parquet file",
}

# Parts of Spark's messages; its error conditions get lost when an error passes through a task. Spark may notice a
# damaged column only when it decodes a value. That is not a file error, but the Java stack names the Parquet reader.
_UNREADABLE = (
    "FAILED_READ_FILE", "CANNOT_READ_FILE_FOOTER", "is not a Parquet file", "CANNOT_MERGE_SCHEMA",
    "datasources.parquet.ParquetDictionary", "datasources.parquet.Vectorized",
)  # fmt: skip
_UNWRITABLE = ("IOException", "Permission denied", "No space left", "Mkdirs failed")


def read_ratings(spark: SparkSession, path: str) -> DataFrame:
    """Read a Parquet file, folder or glob.

    Raises
    ------
    DataError    the path does not exist, has no Parquet, or its first file cannot be read
    """
    with _unreadable_path_is_data_error(path):
        return spark.read.parquet(path)


def list_files(spark: SparkSession, path: str) -> dict[str, str]:
    """The files that `read_ratings` reads, each with its size and modification time. Runs on the driver.

    Cost: a listing; reads no content.
    """
    with _unreadable_path_is_data_error(path):
        found = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(path)
        rows = found.select("path", "length", F.unix_micros("modificationTime").alias("micros")).collect()
    return {row["path"]: f"{row['length']} bytes, {row['micros']} µs" for row in sorted(rows)}


def read_files(ratings: DataFrame, path: str, files: list[str]) -> DataFrame:
    """Read some of the files of `read_ratings(path)`, with the partition columns from folder names."""
    spark = ratings.sparkSession
    reader = spark.read.schema(ratings.schema)
    if FileStore(spark, path).is_folder(path):  # for a file or glob, Spark finds the partition folders itself
        reader = reader.option("basePath", path)
    return reader.parquet(*map(_literal, files))


@contextmanager
def _unreadable_path_is_data_error(path: str) -> Iterator[None]:
    try:
        yield
        return
    except AnalysisException as error:
        reason = _REASONS.get(error.getCondition() or "", "cannot be read: " + first_line(error))
    except (PySparkException, Py4JJavaError) as error:
        reason = "is not a readable Parquet file: " + first_line(error)
    raise DataError(f"the input '{path}' {reason}; expected a Parquet file, folder or glob of ratings")


@contextmanager
def unreadable_input_is_data_error() -> Iterator[None]:
    """Raise DataError if an input file is unreadable during a scan."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
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
    return reader.parquet(_literal(path))


def _literal(path: str) -> str:
    """Escape a path: Spark's reader takes '*' and '[' as patterns."""
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", path)


def write_table(table: DataFrame, path: str, partition_by: str | None = None) -> None:
    """Write a table as Parquet; replace the output of an earlier attempt.

    Raises
    ------
    OutputError    the table cannot be written
    """
    try:
        table.write.parquet(path, mode="overwrite", partitionBy=partition_by)
    except (PySparkException, Py4JJavaError) as error:
        is_unreadable = any(sign in str(error) for sign in _UNREADABLE)
        if any(sign in str(error) for sign in _UNWRITABLE) and not is_unreadable and cluster_failure(error) is None:
            raise OutputError(
                f"cannot write '{path}': {first_line(error)}; check the free space and permissions of output.path"
            ) from error
        raise
