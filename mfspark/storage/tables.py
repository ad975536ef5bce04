"""Reading ratings, and the tables of a run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession

from mfspark.cluster import cluster_failure, first_line
from mfspark.errors import DataError, OutputError

_REASONS = {
    "PATH_NOT_FOUND": "does not exist",
    "UNABLE_TO_INFER_SCHEMA": "holds no Parquet file",
}

# Parts of Spark's messages; its error conditions do not survive the way through a task.
_UNREADABLE = ("FAILED_READ_FILE", "CANNOT_READ_FILE_FOOTER", "is not a Parquet file", "CANNOT_MERGE_SCHEMA")
_UNWRITABLE = ("IOException", "Permission denied", "No space left", "Mkdirs failed")


def read_ratings(spark: SparkSession, path: str) -> DataFrame:
    """Read a Parquet file, folder or glob.

    Raises
    ------
    DataError    the path does not exist, holds no Parquet, or its first file cannot be read
    """
    try:
        return spark.read.parquet(path)
    except AnalysisException as error:
        reason = _REASONS.get(error.getCondition() or "", "cannot be read: " + first_line(error))
    except (PySparkException, Py4JJavaError) as error:
        reason = "is not a readable Parquet file: " + first_line(error)
    raise DataError(f"the input '{path}' {reason}; expected a Parquet file, folder or glob of ratings")


@contextmanager
def unreadable_input_is_data_error() -> Iterator[None]:
    """Raise DataError where an input file turns out to be unreadable while it is scanned."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        if any(sign in str(error) for sign in _UNREADABLE):
            raise DataError(
                f"an input file cannot be read: {first_line(error)}; replace it or leave it out of input.path"
            ) from error
        raise


def read_table(spark: SparkSession, path: str) -> DataFrame:
    """Read a table of a run. The path is taken as it stands; to Spark's reader '*' and '[' would be a pattern."""
    return spark.read.parquet(re.sub(r"([*?\[\]{}\\])", r"\\\1", path))


def write_table(table: DataFrame, path: str, partition_by: str | None = None) -> None:
    """Write a table as Parquet, in place of what an earlier attempt left.

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
                f"cannot write '{path}': {first_line(error)}; check space and rights of output.path"
            ) from error
        raise
