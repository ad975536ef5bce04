"""Rows that cannot be used have a reason; the others become ratings."""

from datetime import datetime

import pytest

from mfspark.config.sections import ColumnsConfig
from mfspark.errors import DataError, SchemaError
from mfspark.tables.ingest import (
    accepted_ratings,
    count_by_reason,
    rejected_rows,
    require_acceptable,
    require_rating_schema,
)

pytestmark = pytest.mark.spark


def test_blank_ids_are_no_item_that_everybody_has_rated(spark):
    raw = spark.createDataFrame(
        [("a", "x", 1.0), ("", "x", 1.0), ("b", " \t", 1.0), (" c ", "x", 1.0)],
        "user_id string, item_id string, rating double",
    )
    columns = ColumnsConfig()
    assert count_by_reason(raw, columns) == {None: 2, "user_id is blank": 1, "item_id is blank": 1}
    assert {row["user_id"] for row in accepted_ratings(raw, columns).collect()} == {"a", " c "}


def test_text_timestamps_are_times_and_not_letters(spark):
    # As letters "2026-1-2…" and the zone would be out of order.
    times = ["2026-01-02T03:04:05", "2026-01-02", "2026-01-02 03:04:05+09:00", "2.1.2026", "yesterday", "1234567890"]
    raw = spark.createDataFrame(
        [(n, n, 1.0, text) for n, text in enumerate(times)], "user_id int, item_id int, rating double, at string"
    )
    columns = ColumnsConfig(timestamp="at")
    require_rating_schema(raw, columns)
    assert count_by_reason(raw, columns) == {None: 3, "at is not of the form ISO 8601": 3}
    assert [row["user_id"] for row in rejected_rows(raw, columns).orderBy("user_id").collect()] == [3, 4, 5]
    order = [row["user_id"] for row in accepted_ratings(raw, columns).orderBy("timestamp").collect()]
    assert order == [2, 1, 0]


def test_text_timestamps_of_a_given_form(spark):
    raw = spark.createDataFrame(
        [(1, 1, 1.0, "2.11.2026 5:06"), (2, 2, 1.0, "2026-11-02")], "user_id int, item_id int, rating double, at string"
    )
    columns = ColumnsConfig(timestamp="at", timestamp_format="d.M.yyyy H:mm")
    assert count_by_reason(raw, columns) == {None: 1, "at is not of the form d.M.yyyy H:mm": 1}
    (row,) = accepted_ratings(raw, columns).collect()
    assert row["timestamp"] == datetime(2026, 11, 2, 5, 6)  # Spark gives the session's time without zone
    with pytest.raises(SchemaError, match="timestamp_format is for text, and column 'rating' is no text"):
        require_rating_schema(raw, ColumnsConfig(rating="", timestamp="rating", timestamp_format="yyyy"))


def test_without_a_rating_column_each_row_counts_one(spark):
    raw = spark.createDataFrame([(1, 1), (1, 1), (None, 2)], "user_id int, item_id int")
    columns = ColumnsConfig(rating="")
    require_rating_schema(raw, columns)
    assert count_by_reason(raw, columns) == {None: 2, "user_id is null": 1}
    assert [row["rating"] for row in accepted_ratings(raw, columns).collect()] == [1.0, 1.0]


def test_a_run_that_carries_ratings_over_needs_no_new_ones():
    require_acceptable({}, 0.1, n_carried=3)
    require_acceptable({"user_id is null": 2}, 1.0, n_carried=3)
    with pytest.raises(DataError, match="the input has no rows"):
        require_acceptable({}, 0.1)
    with pytest.raises(DataError, match="all 2 rows were rejected"):
        require_acceptable({"user_id is null": 2}, 1.0)
    with pytest.raises(DataError, match="2 of 2 rows were rejected"):
        require_acceptable({"user_id is null": 2}, 0.5, n_carried=3)
