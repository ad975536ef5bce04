"""One Spark session for all tests that need one; the others never start a JVM."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.builders import random_ratings, ratings_table

PROJECT = Path(__file__).resolve().parent.parent
# One short life on a busy machine: a simple collector and no second compiler start soonest, and so do the processes by
# which Hadoop sets the rights of each file. Without a second compiler Java keeps only 48 MB of compiled code, which a
# session of tests fills: from then on it drops code and compiles it again. It also collects garbage each time that its
# classes outgrow MetaspaceSize. The archive is that of scripts/environment.
JAVA_OPTIONS = (
    "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:MetaspaceSize=256m "
    f"-XX:SharedArchiveFile={PROJECT}/build/spark-classes.jsa -Xlog:cds*=off"
)
JAVA = f"{os.environ['JAVA_HOME']}/bin/java" if os.environ.get("JAVA_HOME") else "java"
WARNS_OF_VFORK = 'version "25'


def java_says():
    """What Java prints of its version; nothing where there is none."""
    command = [JAVA, "-version"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr if shutil.which(JAVA) else ""


if sys.platform == "linux" and WARNS_OF_VFORK not in java_says():
    JAVA_OPTIONS += " -Djdk.lang.Process.launchMechanism=VFORK"


def pytest_addoption(parser):
    parser.addoption(
        "--connect", action="store_true", help="the session is one of Spark Connect, to a server of our own"
    )
    parser.addoption("--lakehouse", choices=("delta", "iceberg"), help="the format of the tables in tests/lakehouse")
    parser.addoption("--executors", action="store_true", help="no table is small enough for the local engine")


def pytest_collection_modifyitems(config, items):
    """A process has sessions of one kind only: pyspark's functions follow the first."""
    is_connect = config.getoption("--connect")
    absent = {"classic": "a classic session"} if is_connect else {"connect": "a session of Spark Connect (--connect)"}
    if config.getoption("--executors"):
        absent["local"] = "the local engine"
    for item in items:
        for marker, needed in absent.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"needs {needed}"))


@pytest.fixture(autouse=True)
def _engine_of_small_tables(request, monkeypatch):
    """With --executors, the engine "auto" is the one on the executors."""
    if request.config.getoption("--executors"):
        from mfspark.blocks import prepare
        from mfspark.engine import choice
        from mfspark.serving import recommend

        monkeypatch.setattr(choice, "MAX_LOCAL_ROWS", -1)
        for module in (prepare, recommend):
            monkeypatch.setattr(module, "has_all_cores", lambda _: False)


@pytest.fixture(scope="session")
def spark_session(request, tmp_path_factory):
    os.environ["PYSPARK_PYTHON"] = sys.executable
    scratch = tmp_path_factory.mktemp("spark")
    yield from (_connect_session if request.config.getoption("--connect") else _classic_session)(scratch)


def _connect_session(scratch: Path) -> Iterator:
    from pyspark.sql import SparkSession

    from tests.cluster.connect import ConnectServer

    server = ConnectServer("local[2]", scratch)
    try:
        session = SparkSession.builder.remote(server.url).getOrCreate()
        yield session
        session.stop()
    finally:
        server.stop()


def _classic_session(scratch: Path) -> Iterator:
    session = session_builder(scratch).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


def session_builder(scratch: Path, **conf: object):
    """What the classic session of all tests is made with, and these settings of Spark."""
    from pyspark.sql import SparkSession

    builder = (
        SparkSession.builder.master("local[2]")
        .appName("mfspark tests")
        .config("spark.ui.enabled", "false")  # no port to fight for
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")  # no name service needed
        .config("spark.sql.shuffle.partitions", "2")  # tables of a few rows
        # Hundreds of runs have the same queries: with Spark's 100 entries, each run compiles their code anew.
        .config("spark.sql.codegen.cache.maxEntries", "2000")
        .config("spark.driver.memory", "2g")
        # Spark remembers a thousand queries and a hundred thousand tasks for its page, which fill the heap.
        .config("spark.sql.ui.retainedExecutions", "10")
        .config("spark.ui.retainedJobs", "100")
        .config("spark.ui.retainedStages", "100")
        .config("spark.ui.retainedTasks", "1000")
        # Fifteen iterations of Spark's own ALS, which ours is compared with, are a lineage that takes more stack to
        # read than a thread has by itself.
        .config("spark.driver.extraJavaOptions", f"{JAVA_OPTIONS} -Xss8m")
        .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
        .config("spark.local.dir", str(scratch / "local"))
        .config("spark.python.unix.domain.socket.enabled", "true")  # as in the session of a job
        .config("spark.python.sql.dataFrameDebugging.enabled", "false")  # as well
    )
    for key, value in conf.items():
        builder = builder.config(key, str(value))
    return builder


@pytest.fixture
def spark(spark_session) -> Iterator:
    """The session; afterwards nothing may still be cached, but for what Spark's own ALS leaves."""
    yield spark_session
    if not hasattr(spark_session, "_jvm"):
        return
    cached = {number: str(rdd) for number, rdd in spark_session.sparkContext._jsc.getPersistentRDDs().items()}
    kept = [name for name in cached.values() if "at ALS.scala" not in name]
    for rdd in spark_session.sparkContext._jsc.getPersistentRDDs().values():
        rdd.unpersist()
    spark_session.catalog.clearCache()
    assert not kept, f"still cached after the test: {kept}"


@pytest.fixture
def on_executors(request) -> str:
    """The name of the engine on the executors, for the kind of the session."""
    return "connect" if request.config.getoption("--connect") else "rdd"


N_WIDE_USERS, N_WIDE_ITEMS, WIDE_RANK = 40, 25, 4
# maxBroadcastBytes that the factors of both sides exceed, of the users only, of none.
BOTH_WIDE, USERS_WIDE, NONE_WIDE = 100, 4 * WIDE_RANK * (N_WIDE_ITEMS + 5), 1 << 30


@pytest.fixture
def wide_ratings(spark):
    """Ratings with a weight, of which one in seven judges."""
    users, items, values = random_ratings(seed=9, n_users=N_WIDE_USERS, n_items=N_WIDE_ITEMS, n_ratings=300)
    table = ratings_table(users, items, values).append_column("weight", [(values + 1).tolist()])
    table = table.append_column("judges", [(np.arange(len(users)) % 7 == 0).tolist()])
    return spark.createDataFrame(table).repartition(3)


@pytest.fixture
def forget(spark) -> Iterator:  # noqa: ARG001  # before the session looks for what is still cached
    """Marks a model, which it returns: at the end, what its wide sides keep is dropped."""
    models = []
    yield lambda model: models.append(model) or model
    for model in models:
        for factors in model.factorTables:
            factors.batches.drop()


@pytest.fixture
def fit_wide(forget, on_executors):
    """Fits ALS on the executors."""

    def fit(ratings, *, blocks=(3, 2), max_iter=3, **settings):
        from mfspark import ALS

        settings |= {"validationIndicatorCol": "judges", "engine": on_executors}
        als = ALS(rank=WIDE_RANK, maxIter=max_iter, seed=1, **settings)
        return forget(als.setNumUserBlocks(blocks[0]).setNumItemBlocks(blocks[1]).fit(ratings))

    return fit


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real ratings, named by MFSPARK_DATA."""
    folder = os.environ.get("MFSPARK_DATA")
    if not folder:
        pytest.skip("MFSPARK_DATA is not set")
    return Path(folder)
