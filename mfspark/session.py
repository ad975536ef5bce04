"""The Spark session of a job."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

_SETTINGS = {
    # Sockets between the JVM and the Python workers hold back small messages by 40 ms a task; these do not.
    # Known since Spark 4.1, ignored before.
    "spark.python.unix.domain.socket.enabled": "true",
    # Spark's INFO would drown the progress lines.
    "spark.log.level": "WARN",
}
"""What a job asks for where spark-submit and its configuration say nothing."""


@contextmanager
def open_session(app_name: str) -> Iterator[SparkSession]:
    """Give the running session or start one; stop only what was started here.

    Master and resources come from spark-submit and its configuration, never from code.
    """
    running = SparkSession.getActiveSession()
    spark = running or _start(app_name)
    try:
        yield spark
    finally:
        if running is None:
            spark.stop()


def _start(app_name: str) -> SparkSession:
    SparkContext._ensure_initialized()  # before it, SparkConf does not know what was submitted
    submitted = SparkConf()
    builder = SparkSession.builder.appName(app_name)
    for key, value in _SETTINGS.items():
        if not submitted.contains(key):
            builder = builder.config(key, value)
    return builder.getOrCreate()
