"""Recognizes failures of the cluster and describes each in one line."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark import SparkContext
from pyspark.errors import PySparkException

from mfspark.errors import ConfigError, MfsparkError

SPARK_ERRORS = (PySparkException, Py4JJavaError)
"""What calls of Spark raise: PySpark converts some Java exceptions to its own and passes the others on."""


class _Failure(NamedTuple):
    signs: tuple[str, ...]
    """Parts of Spark's messages. Error conditions cannot be used, because they are lost when a task fails."""
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
        ("spark.driver.maxResultSize",),
        "the driver collects more than spark.driver.maxResultSize",
        "raise it, with spark.driver.memory, or lower train.max_broadcast_bytes, so that large factors stay on the "
        "executors",
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
    _Failure(
        ("StatusCode.UNAVAILABLE", "INVALID_HANDLE.SESSION", "NO_ACTIVE_SESSION"),
        "the Spark Connect server ended, or does not answer any more",
        "start it again, and look into its log for why it ended",
    ),
)
_CONNECTORS = {"s3a": "org.apache.hadoop:hadoop-aws", "s3": "org.apache.hadoop:hadoop-aws", "abfs": "hadoop-azure",
               "abfss": "hadoop-azure", "gs": "Google's gcs-connector"}  # fmt: skip
_STORE_FAILURES = (
    (
        ("NoSuchBucket", "UnknownStoreException"),
        "the bucket does not exist; create it or correct the path",
    ),
    (
        ("NoAuthWithAWSException", "NoAwsCredentialsException", "Unable to load credentials"),
        "there are no credentials for the store; give the job a role, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "spark.hadoop.fs.s3a.access.key and secret.key",
    ),
    (
        ("Status Code: 403", "AccessDeniedException"),
        "the store refuses the job's credentials; correct them, or permit them to read, write, list and delete there",
    ),
)
_NO_MODULE = re.compile(r"(?:ModuleNotFoundError|ImportError): (.*)")
_NO_PROGRAM = re.compile(r'Cannot run program "([^"]*)"')
_OTHER_VERSION = "PYTHON_VERSION_MISMATCH"
_WRITING_OUTPUT = ("FileFormatWriter", "FileDataWriter")
_WRITING_SCRATCH = ("org.apache.spark.storage.", "org.apache.spark.shuffle.", "org.apache.spark.util.collection.")


def require_same_python(error: Exception, context: SparkContext) -> None:
    """Raise ConfigError if a task failed because the executors run another Python than the driver.

    This is the most common mistake with PySpark: an environment is active on the driver but not on the executors.
    """
    lacks = _lack(error)
    if lacks is None:
        return
    raise ConfigError(
        f"the executors' Python, {_executors_python(context)}, {lacks}; expected one with mfspark and its packages; "
        f"set spark.pyspark.python (or PYSPARK_PYTHON) to such a Python on every machine (on this one it is "
        f"{sys.executable}), or send one to the executors with spark-submit --archives"
    ) from error


def require_shipped(error: Exception) -> None:
    """Raise ConfigError if a task failed because the executors of a Spark Connect server lack mfspark or a package."""
    lacks = _lack(error)
    if lacks is None:
        return
    raise ConfigError(
        f"the Python of the executors behind the Spark Connect server {lacks}; expected one with mfspark and its "
        "packages; send mfspark with spark.addArtifacts('mfspark.zip', pyfile=True), or the whole environment as an "
        "archive (docs/howto/connect.md)"
    ) from error


def _lack(error: Exception) -> str | None:
    """What the executors' Python does not have, by the error of a task; None for other errors."""
    text = str(error)
    found = _NO_MODULE.search(text)
    if found is not None:
        return f"reports '{found[1]}'"
    if _OTHER_VERSION in text:
        return f"is not version {sys.version_info.major}.{sys.version_info.minor}, the driver's version"
    return "does not exist" if _NO_PROGRAM.search(text) else None


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that tasks use, as installed where this runs."""
    return {name: str(import_module(name).__version__) for name in ("numpy", "numba", "pyarrow")}


def require_packages(expected: dict[str, str]) -> None:
    """Raise ImportError if a package has another major version than on the driver. Runs on executors.

    Such a package can often be imported, but then fails in the middle of a task or gives other results.
    """
    for name, version in package_versions().items():
        if version.partition(".")[0] != expected[name].partition(".")[0]:
            raise ImportError(f"{name} {version}, but the driver has {expected[name]}")


def _executors_python(context: SparkContext) -> str:
    """Path and version of the executors' Python, from a task; if no task can run, the configured name."""

    def who_am_i(_: int) -> str:  # a nested function: Spark sends its code, so executors need not import mfspark
        import platform
        import sys

        return f"{sys.executable} (Python {platform.python_version()})"

    try:
        return str(context.parallelize([0], 1).map(who_am_i).first())
    except Exception:  # the caller is about to report what is wrong
        return str(context.pythonExec)


@contextmanager
def cluster_failures_are(error_type: type[MfsparkError]) -> Iterator[None]:
    """Raise failures of the cluster (a full disk, no memory, lost executors) as this error type."""
    try:
        yield
    except (PySparkException, Py4JJavaError, OSError, MemoryError) as error:
        if SparkContext._active_spark_context is not None:
            require_same_python(error, SparkContext._active_spark_context)
        else:
            require_shipped(error)
        failure = cluster_failure(error)
        if failure is None:
            raise
        raise error_type(f"{failure}; then continue with --resume") from error


def cluster_failure(error: Exception) -> str | None:
    """A failure of the cluster, with Spark's message and the remedy; None for other errors, such as a full output."""
    text = f"{type(error).__name__}: {error}"
    if _is_any(_WRITING_OUTPUT, text) and not _is_any(_WRITING_SCRATCH, text):
        return None
    for failure in _FAILURES:
        found = [line.strip() for line in text.splitlines() if _is_any(failure.signs, line)]
        if found:
            return f"{failure.what}: {found[0].rpartition('most recent failure: ')[2]}; {failure.remedy}"
    return None


def store_failure(path: str, error: Exception) -> str | None:
    """Why an object store cannot be used at all, and the remedy; None for other errors."""
    text, scheme = str(error), path.partition("://")[0]
    if "No FileSystem for scheme" in text or ("ClassNotFoundException" in text and scheme != path):
        connector = _CONNECTORS.get(scheme, f"the connector of {scheme}://")
        return f"Spark has no connector for it; start Spark with {connector}: spark-submit --packages …"
    return next((failure for signs, failure in _STORE_FAILURES if _is_any(signs, text)), None)


def first_line(error: Exception) -> str:
    """The first line of a Spark error, without the Java stack trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    is_py4j_prefix = len(lines) > 1 and lines[0].startswith("An error occurred while calling")
    return lines[1 if is_py4j_prefix else 0].lstrip(": ")


def _is_any(signs: tuple[str, ...], text: str) -> bool:
    return any(sign in text for sign in signs)
