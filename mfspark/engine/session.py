"""The Spark session of a job."""

from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from mfspark.engine.failures import first_line
from mfspark.errors import ConfigError

_SETTINGS = {
    # Sockets between the JVM and the Python workers hold back small messages by 40 ms a task; these do not.
    # Known since Spark 4.1, ignored before.
    "spark.python.unix.domain.socket.enabled": "true",
    # Spark sends a task to executors that have a fifth of its data. Where few have read the input, these would keep all
    # blocks, and the others would have nothing to do.
    "spark.shuffle.reduceLocality.enabled": "false",
    # Spark's INFO would drown the progress lines.
    "spark.log.level": "WARN",
}
"""Settings of a job, unless spark-submit or its configuration sets them."""


@contextmanager
def open_session(app_name: str) -> Iterator[SparkSession]:
    """Give the running session or start one; stop only what was started here.

    Master and resources come from spark-submit and its configuration, never from code.

    Raises
    ------
    ConfigError    there is no session to be had: the master is not there, or turns the application away
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
    try:
        return builder.getOrCreate()
    except (Py4JError, PySparkException) as error:
        raise ConfigError(
            f"cannot start a Spark session on '{submitted.get('spark.master')}': {first_line(error)}; expected a "
            "running master that accepts this job; check --master and, if the cluster uses it, "
            "spark.authenticate.secret"
        ) from error
