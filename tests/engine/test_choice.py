"""Small tables are read into the driver's memory, others are left alone."""

from uuid import uuid4

import pytest
from pyspark.sql.types import IntegerType, StructField, StructType

from mfspark.engine import choice
from mfspark.engine.choice import read_small

pytestmark = pytest.mark.spark


def n_jobs(spark, work):
    """Result of the work, and number of Spark jobs that it ran."""
    context = spark.sparkContext
    group = uuid4().hex
    context.setJobGroup(group, "read")
    try:
        found = work()
        return found, len(context.statusTracker().getJobIdsForGroup(group))
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)


def test_a_stored_table_is_read_by_one_job(spark, tmp_path):
    spark.range(100).write.parquet(str(tmp_path / "table"))
    found, n_run = n_jobs(spark, lambda: read_small(spark.read.parquet(str(tmp_path / "table"))))
    # One more job reads the schema.
    assert (sum(batch.num_rows for batch in found.records), n_run) == (100, 2)


def test_a_table_of_more_rows_is_left_alone(spark, tmp_path):
    spark.range(101).write.parquet(str(tmp_path / "table"))
    assert read_small(spark.read.parquet(str(tmp_path / "table")), max_rows=100) is None


def test_a_table_of_unknown_size_is_counted_first(spark):
    rows = spark.createDataFrame([(number,) for number in range(20)], StructType([StructField("n", IntegerType())]))
    assert read_small(rows, max_rows=20) is not None
    found, n_run = n_jobs(spark, lambda: read_small(rows, max_rows=19))
    assert found is None
    assert n_run <= 2  # of the count alone


def test_of_large_input_nothing_is_read(spark, tmp_path, monkeypatch):
    spark.range(1000).write.parquet(str(tmp_path / "table"))
    monkeypatch.setattr(choice, "_SMALL_BYTES", 10)
    monkeypatch.setattr(choice, "_LARGE_BYTES", 100)
    table = spark.read.parquet(str(tmp_path / "table"))
    assert n_jobs(spark, lambda: read_small(table)) == (None, 0)
