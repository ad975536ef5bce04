"""One Spark session for all tests that need one; the others never start a JVM."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
# One short life on a busy machine: a simple collector and no second compiler start soonest, and so do the processes by
# which Hadoop sets the rights of each file.
JAVA_OPTIONS = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
if sys.platform == "linux":
    JAVA_OPTIONS += " -Djdk.lang.Process.launchMechanism=VFORK"


@pytest.fixture(scope="session")
def spark_session(tmp_path_factory):
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    scratch = tmp_path_factory.mktemp("spark")
    session = (
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
        .getOrCreate()
    )
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


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real ratings, named by MFSPARK_DATA."""
    folder = os.environ.get("MFSPARK_DATA")
    if not folder:
        pytest.skip("MFSPARK_DATA is not set")
    return Path(folder)
