"""The Spark session of a job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from mfspark.engine.failures import first_line
from mfspark.errors import ConfigError

_SETTINGS = {
    # TCP sockets between the JVM and the Python workers delay small messages by 40 ms per task; Unix sockets do not.
    # Since Spark 4.1; older versions ignore it.
    "spark.python.unix.domain.socket.enabled": "true",
    # Spark prefers executors that have a fifth of a task's data. If few executors read the input, they would keep all
    # blocks, and the others would be idle.
    "spark.shuffle.reduceLocality.enabled": "false",
    # Spark's INFO lines would hide the progress lines.
    "spark.log.level": "WARN",
}
"""Default settings of a job; spark-submit and its configuration override them."""


@contextmanager
def open_session(app_name: str) -> Iterator[SparkSession]:
    """Return the running session or start one; stop it only if it was started here.

    Master and resources come from spark-submit and its configuration, never from code.

    Raises
    ------
    ConfigError    no session: the master does not answer, or refuses the application
    """
    running = SparkSession.getActiveSession()
    spark = running or _start(app_name)
    try:
        yield spark
    except KeyboardInterrupt:
        if running is not None:
            spark.sparkContext.cancelAllJobs()
        raise
    finally:
        if running is None:
            with suppress(Py4JError):  # a JVM that ends has stopped it
                spark.stop()


def _start(app_name: str) -> SparkSession:
    SparkContext._ensure_initialized()  # without it, SparkConf does not have the submitted settings
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


def hand_on_signals(spark: SparkSession) -> None:
    """Let the JVM of spark-submit hand on its SIGTERM to this process, and wait for it to end.

    Without this, only the JVM gets the signal of Kubernetes, YARN or Airflow, and this process loses its JVM in the
    middle of a call. The two hooks need no class of ours in the JVM: java.beans.EventHandler makes a Runnable of any
    method.
    """
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # this process has started the JVM
        return
    jvm: Any = spark.sparkContext._jvm
    process = jvm.java.lang.ProcessHandle.of(os.getpid()).get()
    runnable = jvm.java.lang.Class.forName("java.lang.Runnable")
    for target, method in ((process, "destroy"), (process.onExit(), "join")):
        action = jvm.java.beans.EventHandler.create(runnable, target, method)
        jvm.java.lang.Runtime.getRuntime().addShutdownHook(jvm.java.lang.Thread(action))


def reconnect(spark: SparkSession) -> None:
    """Let the first call after an interrupt fail here, if it does: see `interrupt_behind`."""
    with suppress(Py4JError):
        spark.sparkContext._jvm.java.lang.System.nanoTime()  # type: ignore[union-attr]


def java_version(spark: SparkSession) -> str:
    """Version of the driver's Java."""
    return str(spark.sparkContext._jvm.System.getProperty("java.version"))  # type: ignore[union-attr]
