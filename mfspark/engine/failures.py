"""Failures of the cluster, described in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from mfspark.errors import MfsparkError


class _Failure(NamedTuple):
    signs: tuple[str, ...]
    """Parts of Spark's messages; Spark's error conditions get lost when an error passes through a task."""
    what: str
    remedy: str


_FAILURES = (
    _Failure(
        ("No space left on device",),
        "a disk under spark.local.dir is full",
        "free space there on every machine (SPARK_LOCAL_DIRS on a standalone worker), or use a larger disk",
    ),
    _Failure(
        ("MemoryError",),
        "memory ran out",
        "raise spark.executor.memory, spark.executor.memoryOverhead or spark.executor.pyspark.memory (on the driver "
        "spark.driver.memory), or use more blocks",
    ),
    _Failure(
        (
            "Python worker exited unexpectedly",
            "ExecutorLostFailure",
            "failed the maximum allowable number of times",
            "CHECKPOINT_RDD_BLOCK_ID_NOT_FOUND",
            "Master removed our application",
            "SparkContext was shut down",
        ),
        "executors or their Python workers were lost too often",
        "check their logs; if the machine killed them, it was out of memory: run fewer executors on a machine, raise "
        "spark.executor.memoryOverhead, or use more blocks",
    ),
)
_WRITING_OUTPUT = ("FileFormatWriter", "FileDataWriter")
_WRITING_SCRATCH = ("org.apache.spark.storage.", "org.apache.spark.shuffle.", "org.apache.spark.util.collection.")


@contextmanager
def cluster_failures_are(error_type: type[MfsparkError]) -> Iterator[None]:
    """Turn failures of the cluster into this error type: a full disk, no memory, lost executors."""
    try:
        yield
    except (PySparkException, Py4JJavaError, OSError, MemoryError) as error:
        failure = cluster_failure(error)
        if failure is None:
            raise
        raise error_type(f"{failure}; then continue with --resume") from error


def cluster_failure(error: Exception) -> str | None:
    """The failure, Spark's message and the remedy; None if the cluster did not fail, as with a full output."""
    text = f"{type(error).__name__}: {error}"
    if _is_any(_WRITING_OUTPUT, text) and not _is_any(_WRITING_SCRATCH, text):
        return None
    for failure in _FAILURES:
        found = [line.strip() for line in text.splitlines() if _is_any(failure.signs, line)]
        if found:
            return f"{failure.what}: {found[0].rpartition('most recent failure: ')[2]}; {failure.remedy}"
    return None


def first_line(error: Exception) -> str:
    """The first line of a Spark error, without the Java stack."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    is_py4j_prefix = len(lines) > 1 and lines[0].startswith("An error occurred while calling")
    return lines[1 if is_py4j_prefix else 0].lstrip(": ")


def _is_any(signs: tuple[str, ...], text: str) -> bool:
    return any(sign in text for sign in signs)
