"""Batches are joined up to a size and no row is lost."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from mfspark.engine.arrow import gather_batches, read_batches, to_table


def test_batches_are_joined_until_they_have_the_rows_asked_for():
    batch = pa.RecordBatch.from_pydict({"user_id": np.arange(125)})
    tables = list(gather_batches((batch.slice(start, 30) for start in range(0, 125, 30)), 50))
    assert [table.num_rows for table in tables] == [60, 60, 5]
    assert pa.concat_tables(tables)["user_id"].to_pylist() == list(range(125))


def test_batches_without_rows_make_no_table():
    batch = pa.RecordBatch.from_pydict({"user_id": np.arange(0)})
    assert list(gather_batches([batch, batch], 50)) == []


@pytest.mark.spark
def test_batches_read_from_a_table_make_the_same_table_again(spark):
    at = datetime(2026, 3, 29, 2, 30, 0, 123456)
    rows = [(1, "a", [1.0, 2.0], at, at), (2, "é", [3.0], at, None), (3, None, [], None, at)]
    schema = "id long, name string, features array<float>, at timestamp, written timestamp_ntz"
    table = spark.createDataFrame(rows, schema).repartition(2)
    batches = read_batches(table)
    assert sorted(tuple(row) for row in to_table(spark, batches, table.schema).collect()) == sorted(rows)


@pytest.mark.spark
def test_reading_batches_leaves_the_settings_of_the_session_alone(spark):
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    spark.conf.set(key, "7")
    try:
        table = spark.range(100).repartition(1)
        assert [batch.num_rows for batch in read_batches(table).collect()] == [100]
        assert spark.conf.get(key) == "7"
    finally:
        spark.conf.unset(key)
