"""The Spark session of a job."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession


@contextmanager
def open_session(app_name: str) -> Iterator[SparkSession]:
    """Give the running session or start one; stop only what was started here.

    Master and resources come from spark-submit and its configuration, never from code.
    """
    running = SparkSession.getActiveSession()
    spark = running or SparkSession.builder.appName(app_name).getOrCreate()
    try:
        yield spark
    finally:
        if running is None:
            spark.stop()
