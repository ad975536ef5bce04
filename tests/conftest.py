"""One Spark session for all tests that need one; the others never start a JVM."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.builders import random_ratings, ratings_table

PROJECT = Path(__file__).resolve().parent.parent
# One short life on a busy machine: a simple collector and no second compiler start soonest, and so do the processes by
# which Hadoop sets the rights of each file.
JAVA_OPTIONS = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
if sys.platform == "linux":
    JAVA_OPTIONS += " -Djdk.lang.Process.launchMechanism=VFORK"


def session_builder(scratch: Path, **conf: object):
    """What the session of all tests is made with, and these settings of Spark."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = (
        SparkSession.builder.master("local[2]")
        .appName("mfspark tests")
        .config("spark.ui.enabled", "false")  # no port to fight for
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")  # no name service needed
        .config("spark.sql.shuffle.partitions", "2")  # tables of a few rows
        # Fifteen iterations of Spark's own ALS, which ours is compared with, are a lineage that takes more stack to
        # read than a thread has by itself.
        .config("spark.driver.extraJavaOptions", f"{JAVA_OPTIONS} -Xss8m")
        .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
        .config("spark.local.dir", str(scratch / "local"))
        .config("spark.python.unix.domain.socket.enabled", "true")  # as conf/spark-defaults.conf
    )
    for key, value in conf.items():
        builder = builder.config(key, str(value))
    return builder


@pytest.fixture(scope="session")
def spark_session(tmp_path_factory):
    session = session_builder(tmp_path_factory.mktemp("spark")).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture
def spark(spark_session) -> Iterator:
    """The session; afterwards nothing may still be cached, but for what Spark's own ALS leaves."""
    yield spark_session
    cached = {number: str(rdd) for number, rdd in spark_session.sparkContext._jsc.getPersistentRDDs().items()}
    kept = [name for name in cached.values() if "at ALS.scala" not in name]
    for rdd in spark_session.sparkContext._jsc.getPersistentRDDs().values():
        rdd.unpersist()
    spark_session.catalog.clearCache()
    assert not kept, f"still cached after the test: {kept}"


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
def fit_wide(forget):
    """Fits ALS on the executors."""

    def fit(ratings, *, blocks=(3, 2), max_iter=3, **settings):
        from mfspark import ALS

        als = ALS(rank=WIDE_RANK, maxIter=max_iter, seed=1, validationIndicatorCol="judges", engine="rdd", **settings)
        return forget(als.setNumUserBlocks(blocks[0]).setNumItemBlocks(blocks[1]).fit(ratings))

    return fit


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real ratings, named by MFSPARK_DATA."""
    folder = os.environ.get("MFSPARK_DATA")
    if not folder:
        pytest.skip("MFSPARK_DATA is not set")
    return Path(folder)
