"""Spark sessions: their two kinds, and the session of a job."""

import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO
from weakref import WeakKeyDictionary

import pyspark
from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException, PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.logger import PySparkLogger
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark.engine.failures import first_line
from mfspark.errors import ConfigError

logger = logging.getLogger(__name__)

_SETTINGS = {
    # TCP sockets between the JVM and the Python workers delay small messages by 40 ms per task; Unix sockets do not.
    # Spark has the setting since 4.1; older versions ignore it.
    "spark.python.unix.domain.socket.enabled": "true",
    # By default Spark sends a task to an executor that has at least a fifth of its data. If few executors read the
    # input, they would keep all blocks, and the others would be idle.
    "spark.shuffle.reduceLocality.enabled": "false",
    # PySpark notes the line of Python that made each column, which takes most of the time to make one. The traceback in
    # the log has the line too.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    # Spark's INFO lines, hundreds for each job, would fill the log file.
    "spark.log.level": "WARN",
}
"""Settings of a job's session; the flags and configuration of spark-submit override them."""

TESTED_JAVA = (17, 21, 25)
"""The versions of Java in scripts/matrix. With others a job has a warning."""

_ANSWER_S = 30.0
"""How long a job waits for a Spark Connect server."""
_STOP_S = 5.0
"""How long a job waits for its session on such a server to end."""

# A range of this many rows has one in every partition.
_ROWS_TO_COUNT_CORES = 1 << 16

_cores_of_servers: "WeakKeyDictionary[SparkSession, int]" = WeakKeyDictionary()

_JAVA_INSTALLERS = {
    "apt-get": "sudo apt-get update && sudo apt-get install --yes openjdk-17-jre-headless",
    "dnf": "sudo dnf install --assumeyes java-17-openjdk-headless",
    "brew": "brew install openjdk@17",
}


def is_connect(spark: SparkSession) -> bool:
    """Whether this is a session of Spark Connect, which has no JVM, RDDs or broadcasts."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def count_cores(spark: SparkSession) -> int:
    """Number of tasks that run at the same time, according to Spark. On Spark Connect, runs a small job per session."""
    if not is_connect(spark):
        return spark.sparkContext.defaultParallelism
    if spark not in _cores_of_servers:
        _cores_of_servers[spark] = count_partitions(spark.range(_ROWS_TO_COUNT_CORES))
    return _cores_of_servers[spark]


def count_partitions(table: DataFrame) -> int:
    """Number of partitions of a table, without empty ones at the end. Runs a job."""
    (row,) = table.select(F.spark_partition_id().alias("partition")).agg(F.max("partition").alias("last")).collect()
    return 0 if row["last"] is None else int(row["last"]) + 1


def analyzed(table: DataFrame) -> DataFrame:
    """The same table, after Spark has found its columns: on Spark Connect its errors would come later."""
    _ = table.schema
    return table


@contextmanager
def open_session(
    app_name: str, log: TextIO, remote: str | None = None, shipped: Sequence[str] = ()
) -> Iterator[SparkSession]:
    """Return the running session, or start a session and stop it at the end.

    Master and resources come from spark-submit and its configuration, never from code; on Spark Connect they are the
    server's.

    log : file for the output of Spark's logger and of its Python daemon, so that the console has only the lines of the
          job. The output of a session that is already running stays where it is, and so does that of a driver in the
          deploy mode `cluster`, whose console the cluster keeps, and that of a Spark Connect server.
    remote : URL of a Spark Connect server, sc://host:port; None: a classic session
    shipped : files of `scripts/pack_environment` for the executors of that server

    Raises
    ------
    ConfigError    there is no Java, or the master or the server does not answer or refuses the application
    """
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        # PySpark prints each error of a query to stderr, also those that mfspark catches.
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL)
    running = SparkSession.getActiveSession()
    spark = running or (_start(app_name, log) if remote is None else _connect(remote))
    try:
        for file in shipped:
            ship(spark, file)
        yield spark
    except KeyboardInterrupt:
        if running is not None:
            _cancel_jobs(spark)
        raise
    finally:
        if running is None:
            _stop(spark)


def _stop(spark: SparkSession) -> None:
    if is_connect(spark):
        # After an interrupt gRPC may wait forever for the call that was interrupted.
        stopping = threading.Thread(target=spark.stop, daemon=True)
        stopping.start()
        stopping.join(_STOP_S)
        return
    with suppress(Py4JError):  # if the JVM is ending, it has stopped the session itself
        spark.stop()


def _start(app_name: str, log: TextIO) -> SparkSession:
    _reach_java(log)
    submitted = SparkConf()
    if submitted.get("spark.submit.deployMode") != "cluster":
        _redirect_console(SparkContext._jvm, log)
    builder = SparkSession.builder.appName(app_name)
    for key, value in _SETTINGS.items():
        if not submitted.contains(key):
            builder = builder.config(key, value)
    java = str(SparkContext._jvm.System.getProperty("java.version"))  # type: ignore[union-attr]
    _warn_of_untested(java)
    try:
        return builder.getOrCreate()
    except (Py4JError, PySparkException) as error:
        raise ConfigError(
            f"cannot start a Spark session on '{submitted.get('spark.master')}': {first_line(error)}; expected a "
            "running master that accepts this job; check --master, whether Spark "
            f"{pyspark.__version__} runs on Java {java} and, if the cluster uses it, spark.authenticate.secret"
        ) from error


def _connect(url: str) -> SparkSession:
    """A session of its own on a Spark Connect server."""
    shown = url.partition(";")[0]  # a token may follow
    expected = "expected a running server at sc://host:port; correct --remote (or SPARK_REMOTE), or start the server"
    try:
        import grpc
        from pyspark.sql.connect.client import DefaultChannelBuilder
    except ImportError as error:
        raise ConfigError(
            f"Spark Connect needs packages that are not installed: {first_line(error)}; pip install 'mfspark[connect]'"
        ) from error
    try:
        # Spark would try for minutes.
        channel = DefaultChannelBuilder(url).toChannel()
        try:
            grpc.channel_ready_future(channel).result(_ANSWER_S)
        finally:
            channel.close()
        spark = SparkSession.builder.remote(url).getOrCreate()
        logger.debug("Spark %s at %s", spark.version, shown)
    except grpc.FutureTimeoutError as error:
        raise ConfigError(f"no Spark Connect server answers at '{shown}' within {_ANSWER_S:g} s; {expected}") from error
    except PySparkException as error:
        raise ConfigError(f"cannot open a session at '{shown}': {first_line(error)}; {expected}") from error
    return spark


def ship(spark: SparkSession, file: str) -> None:
    """Send a file to the executors of a Spark Connect server: a zip of modules, or an archive of an environment."""
    if not is_connect(spark):
        raise ConfigError(
            "--ship needs --remote; a classic session gets files by spark-submit --py-files or --archives"
        )
    if not Path(file).is_file():
        raise ConfigError(f"--ship: there is no file '{file}'; make it with scripts/pack_environment")
    if file.endswith((".zip", ".py")):
        spark.addArtifacts(file, pyfile=True)
    else:
        spark.addArtifacts(f"{file}#environment", archive=True)
        spark.conf.set("spark.sql.execution.pyspark.python", "environment/bin/python")


def _warn_of_untested(java: str) -> None:
    """Log a warning if this version of Java, such as 25.0.2 or 26-ea, is not a tested one."""
    if not java.startswith(tuple(str(version) for version in TESTED_JAVA)):
        logger.warning("Java %s is not tested with mfspark; tested are %s", java, _in_words(TESTED_JAVA))


def _in_words(versions: tuple[int, ...]) -> str:
    """17, 21 or 25."""
    return f"{', '.join(map(str, versions[:-1]))} or {versions[-1]}"


def hand_on_signals(spark: SparkSession) -> None:
    """Add shutdown hooks to the JVM of spark-submit: it sends SIGTERM to this process and waits for it to end.

    Kubernetes, YARN and Airflow send SIGTERM to the JVM only. Without the hooks, the JVM would exit in the middle of a
    call from this process. The hooks need no Java class of mfspark: java.beans.EventHandler makes a Runnable of any
    method.
    """
    # Without spark-submit this process started the JVM; on Spark Connect it has none.
    if is_connect(spark) or "PYSPARK_GATEWAY_PORT" not in os.environ:
        return
    jvm: Any = spark.sparkContext._jvm
    process = jvm.java.lang.ProcessHandle.of(os.getpid()).get()
    runnable = jvm.java.lang.Class.forName("java.lang.Runnable")
    for target, method in ((process, "destroy"), (process.onExit(), "join")):
        action = jvm.java.beans.EventHandler.create(runnable, target, method)
        jvm.java.lang.Runtime.getRuntime().addShutdownHook(jvm.java.lang.Thread(action))


def recover(spark: SparkSession) -> None:
    """Make a session usable after an interrupt.

    The first call to the JVM may fail, see `interrupt_behind`: make one and ignore its error. A Spark Connect server
    may go on with what the client no longer waits for, and write into the run: stop it.
    """
    with suppress(Py4JError, PySparkException):
        if is_connect(spark):
            _cancel_jobs(spark)
        else:
            spark.sparkContext._jvm.java.lang.System.nanoTime()  # type: ignore[union-attr]


def _cancel_jobs(spark: SparkSession) -> None:
    if is_connect(spark):
        spark.interruptAll()
    else:
        spark.sparkContext.cancelAllJobs()


def java_version(spark: SparkSession) -> str:
    """Version of the driver's Java; on Spark Connect the server's, "unknown" if it does not tell."""
    if is_connect(spark):
        try:
            row = spark.sql("SELECT java_method('java.lang.System', 'getProperty', 'java.version')").first()
        except PySparkException:  # shared clusters do not allow it
            row = None
        return "unknown" if row is None else str(row[0])
    return str(getattr(spark.sparkContext._jvm, "java.lang.System").getProperty("java.version"))


def _reach_java(log: TextIO) -> None:
    """Connect to the JVM of spark-submit; without spark-submit, start a JVM that writes its stderr to the log.

    SparkConf has the submitted settings only after this.
    """
    if SparkContext._gateway is None:
        # Spark takes a JVM that is started this way for a shell, where it draws a bar for each stage.
        settings = SparkConf(loadDefaults=False).set("spark.ui.showConsoleProgress", "false")
        try:
            gateway = launch_gateway(settings, popen_kwargs={"stderr": log})  # type: ignore[no-untyped-call]
        except PySparkRuntimeError as error:
            raise ConfigError(
                f"cannot start Java: {_java()}; expected Java {_in_words(TESTED_JAVA)}; {_java_remedy()}"
            ) from error
        SparkContext._ensure_initialized(gateway=gateway)


def _java() -> str:
    """The Java that Spark's start script uses, and what is wrong with it."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home, "bin", "java")
        return (
            f"{java} ended at once; the log says why" if java.exists() else f"JAVA_HOME is '{home}', without bin/java"
        )
    found = shutil.which("java")
    return f"{found} ended at once; the log says why" if found else "no java on the PATH, and JAVA_HOME is not set"


def _java_remedy() -> str:
    commands = [command for program, command in _JAVA_INSTALLERS.items() if shutil.which(program)]
    return f"install it: {commands[0]}" if commands else "install it, see https://adoptium.net"


def _redirect_console(jvm: Any, log: TextIO) -> None:
    """Redirect System.err and the console appenders of log4j to the log.

    Spark copies the output of its Python daemon to System.err. A console appender keeps the System.err that it had when
    it started, so each is replaced by a new one. Appenders to files stay.
    """
    stream = jvm.java.io.PrintStream(jvm.java.io.FileOutputStream(log.name, True), True)
    jvm.java.lang.System.setErr(stream)
    # Spark loads its default log4j configuration, which has a console appender, only before its first log line.
    getattr(getattr(jvm.org.apache.spark.util, "Utils$"), "MODULE$").initializeLogIfNecessary(False)
    log4j = jvm.org.apache.logging.log4j
    context = log4j.LogManager.getContext(False)
    for logger in context.getConfiguration().getLoggers().values():
        for name, appender in dict(logger.getAppenders()).items():
            if appender.getClass().getSimpleName() == "ConsoleAppender":
                to_log = log4j.core.appender.OutputStreamAppender.createAppender(
                    appender.getLayout(), None, stream, f"log of {name}", False, True
                )
                to_log.start()
                logger.removeAppender(name)
                logger.addAppender(to_log, None, None)
    context.updateLoggers()
