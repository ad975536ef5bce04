"""Indices and bounds: dense, ordered, reproducible, balanced."""

import decimal
import pickle

import numpy as np
import pyarrow as pa
import pytest

from mfspark.blocks.encode import encode_ratings
from mfspark.blocks.index import IdIndex, _merge_ids, index_ratings
from mfspark.errors import DataError
from tests.local import parts_of

IDS = {
    "long": pa.array([50, -7, 2**40, 50, 3, 50], pa.int64()),
    "byte": pa.array([5, -7, 100, 5, 3, 5], pa.int8()),
    "string": pa.array(["m", "B", "é", "m", "a", "m"]),
    "decimal": pa.array([decimal.Decimal(value) for value in ("5.5", "-7.25", "100", "5.5", "3", "5.5")]),
}


def index_users(user_ids, n_partitions=3, **columns):
    ones = np.ones(len(user_ids), np.float32)
    table = pa.table({"user_id": user_ids, "item_id": np.arange(len(user_ids)), "rating": ones} | columns)
    return index_ratings(encode_ratings(parts_of(table, n_partitions)))


def index_of(n_ratings):
    return IdIndex(pa.array(range(len(n_ratings))), np.array(n_ratings))


@pytest.mark.parametrize("kind", IDS)
def test_ids_are_numbered_in_ascending_order_with_their_counts(kind):
    ids = IDS[kind].to_pylist()
    users = index_users(IDS[kind]).users
    assert users.ids.to_pylist() == sorted(set(ids))
    assert users.n_ratings.tolist() == [ids.count(value) for value in sorted(set(ids))]


def test_index_does_not_depend_on_partitions():
    ids = pa.array(np.random.default_rng(0).integers(0, 10**12, 500))
    found = [index_users(ids, n_partitions).users for n_partitions in (1, 2, 7)]
    assert found[0].ids == found[1].ids == found[2].ids
    assert found[0].ids.to_pylist() == sorted(set(ids.to_pylist()))


def test_ids_of_validation_ratings_alone_are_not_indexed():
    is_validation = pa.array([False, True, True, False, False, False])
    index = index_users(IDS["long"], is_validation=is_validation)
    assert index.users.ids.to_pylist() == [3, 50]
    assert index.users.n_ratings.tolist() == [1, 3]
    assert index.items.ids.to_pylist() == [0, 3, 4, 5]
    assert index.n_training == 4


@pytest.mark.parametrize(
    ("ratings", "values"),
    [([3.0, 1.5, 3.0, 4.0, 1.5, -2.0], [-2.0, 1.5, 3.0, 4.0]), ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], None)],
    ids=["four", "six"],
)
def test_ratings_of_few_values_get_a_table_of_them(monkeypatch, ratings, values):
    monkeypatch.setattr("mfspark.blocks.index.MAX_RATING_VALUES", 4)
    found = index_users(IDS["long"], rating=pa.array(ratings, pa.float32())).rating_values
    assert (None if found is None else found.tolist()) == values


@pytest.mark.parametrize("n_partitions", [1, 3])
def test_a_side_of_too_many_ids_is_given_up(n_partitions):
    table = pa.table({"user_id": [1, 2, 3, 4, 1], "item_id": [1, 1, 2, 2, 2], "rating": np.ones(5, np.float32)})
    index = index_ratings(encode_ratings(parts_of(table, n_partitions)), max_ids=3)
    assert index.users is None
    assert index.items.ids.to_pylist() == [1, 2]
    assert index.n_training == 5


def test_all_kinds_of_unusable_rows_are_counted_over_all_partitions():
    rows = [(None, 1, 1.0, False), (1, None, 1.0, True), (2, 2, None, False), (3, 3, float("nan"), False)]
    rows += [(4, 4, float("inf"), None), (None, None, 2.0, False), (5, 5, 5.0, False)]
    columns = zip(("user_id", "item_id", "rating", "is_validation"), zip(*rows, strict=True), strict=True)
    types = {"rating": pa.float32()}
    table = pa.table({name: pa.array(list(values), types.get(name)) for name, values in columns})
    message = "2 null user ids, 2 null item ids, 3 null, NaN or infinite ratings, 1 null validation flags; drop"
    with pytest.raises(DataError) as raised:
        index_ratings(encode_ratings(parts_of(table, 4)))
    assert sorted(str(raised.value).split(" on ")[1].split("; ")[0].split(", ")) == sorted(message[:-6].split(", "))


def test_bounds_share_out_ratings_not_rows():
    # One id with 90 ratings, then 30 with one each: by rows the first block would get 15 ids.
    assert index_of([90] + [1] * 30).ranges(2).bounds.tolist() == [0, 1, 31]


def test_bounds_allow_more_blocks_than_ids():
    bounds = index_of([1, 2]).ranges(5).bounds
    assert (bounds[0], bounds[-1], len(bounds)) == (0, 2, 6)
    assert (np.diff(bounds) >= 0).all()


def test_merged_ids_are_sent_once():
    n_ids = 200_000  # so many that Arrow gives the groups in several chunks
    counted = pa.table({"id": np.arange(n_ids), "n_ratings": np.ones(n_ids, np.int64)})
    merged = _merge_ids(n_ids, counted, counted)
    assert len(pickle.dumps(merged, 5)) < 1.1 * len(pickle.dumps(counted, 5))
    assert merged["n_ratings"].to_pylist() == [2] * n_ids
