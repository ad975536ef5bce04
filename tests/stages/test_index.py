"""Indices and bounds: dense, ordered, reproducible, balanced."""

import decimal

import numpy as np
import pyarrow as pa
import pytest

from mfspark.stages.index import balanced_bounds, index_ids, to_indices

pytestmark = pytest.mark.spark

IDS = {
    "long": pa.array([50, -7, 2**40, 50, 3, 50], pa.int64()),
    "byte": pa.array([5, -7, 100, 5, 3, 5], pa.int8()),
    "string": pa.array(["m", "B", "é", "m", "a", "m"]),
    "decimal": pa.array([decimal.Decimal(value) for value in ("5.5", "-7.25", "100", "5.5", "3", "5.5")]),
}


@pytest.fixture
def indexed(spark):
    """index_ids of a table, unpersisted after the test."""
    indices = []

    def index(ids: pa.Array, n_partitions: int = 3):
        table = spark.createDataFrame(pa.table({"user_id": ids})).repartition(n_partitions)
        indices.append(index_ids(table, "user_id"))
        return indices[-1]

    yield index
    for made in indices:
        made.unpersist()


@pytest.mark.parametrize("kind", IDS)
def test_ids_are_numbered_in_ascending_order_with_their_counts(indexed, kind):
    ids = IDS[kind].to_pylist()
    rows = indexed(IDS[kind]).table.collect()
    assert [tuple(row) for row in rows] == [
        (value, position, ids.count(value)) for position, value in enumerate(sorted(set(ids)))
    ]


def test_index_does_not_depend_on_partitions(indexed):
    random = np.random.default_rng(0)
    ids = pa.array(random.integers(0, 10**12, 500))
    tables = [sorted(indexed(ids, n_partitions).table.collect()) for n_partitions in (1, 2, 7)]
    assert tables[0] == tables[1] == tables[2]
    assert [row["index"] for row in tables[0]] == list(range(len(set(ids.to_pylist()))))


def test_bounds_share_out_ratings_not_rows(indexed):
    # One id with 90 ratings, then 30 with one each: by rows the first block would get 15 ids.
    ids = pa.array([0] * 90 + list(range(1, 31)))
    assert balanced_bounds(indexed(ids), 2).tolist() == [0, 1, 31]


def test_bounds_allow_more_blocks_than_ids(indexed):
    bounds = balanced_bounds(indexed(pa.array([4, 9, 9])), 5)
    assert bounds[0] == 0
    assert bounds[-1] == 2
    assert len(bounds) == 6
    assert (np.diff(bounds) >= 0).all()


def test_bounds_of_more_rows_than_bins_still_cover_all(indexed, monkeypatch):
    monkeypatch.setattr("mfspark.stages.index._MAX_BINS", 4)
    bounds = balanced_bounds(indexed(pa.array(list(range(10)) * 3)), 3)
    assert bounds.tolist() == [0, 3, 6, 10]


def test_ratings_of_unknown_ids_fall_out(spark, indexed):
    users, items = indexed(pa.array(["x", "y"])), indexed(pa.array([7, 9]))
    ratings = spark.createDataFrame(
        pa.table({"user_id": ["y", "x", "nobody"], "item_id": [7, 8, 9], "rating": [1.0, 2.0, 3.0]})
    )
    assert [tuple(row) for row in to_indices(ratings, users, items).collect()] == [(1, 0, 1.0)]
