"""Ids that are numbered where they are get the numbers that one sorted list of all would give them."""

import datetime
import decimal
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest

from mfspark.blocks import wide_index
from mfspark.blocks.encode import encode_ratings
from mfspark.blocks.index import index_ratings
from mfspark.blocks.wide_index import index_wide_side
from tests.local import parts_of

NUMBERS = np.random.default_rng(3).integers(-50, 50, 400)
IDS = {
    "long": pa.array(NUMBERS * 2**40),
    "double": pa.array(NUMBERS / 4),
    "string": pa.array([f"é{number}" if number % 3 else str(number) for number in NUMBERS.tolist()]),
    "decimal": pa.array([decimal.Decimal(number) / 4 for number in NUMBERS.tolist()], pa.decimal128(10, 2)),
    "date": pa.array([datetime.date(2024, 6, 1) + datetime.timedelta(number) for number in NUMBERS.tolist()]),
    "boolean": pa.array((NUMBERS > 0).tolist()),
    "binary": pa.array([str(number).encode() for number in NUMBERS.tolist()]),
}


def encoded_users(user_ids, n_partitions=3, **columns):
    ones = np.ones(len(user_ids), np.float32)
    table = pa.table({"user_id": user_ids, "item_id": np.arange(len(user_ids)), "rating": ones} | columns)
    return encode_ratings(parts_of(table, n_partitions))


def indexed(encoded, n_blocks):
    """(ids of each block, bounds, numbers of each record's dictionary)."""
    index = index_wide_side(encoded, "user", n_blocks)
    found = [ids.to_pylist() for ids in index.ids.records], index.ranges.bounds, index.indices.records
    index.release()
    return found


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("n_blocks", [1, 4])
def test_numbers_are_those_of_a_narrow_side(kind, n_blocks):
    encoded = encoded_users(IDS[kind])
    expected = index_ratings(encoded).users.ids
    blocks, bounds, indices = indexed(encoded, n_blocks)
    assert list(chain(*blocks)) == expected.to_pylist()
    assert bounds.tolist() == [0, *np.cumsum([len(block) for block in blocks])]
    for record, numbers in zip(encoded.records, indices, strict=True):
        assert expected.take(pa.array(numbers)).to_pylist() == record.users.values.to_pylist()


def test_ids_of_validation_ratings_alone_get_no_number():
    is_validation = pa.array((NUMBERS < 0).tolist())
    encoded = encoded_users(IDS["long"], is_validation=is_validation)
    blocks, _, indices = indexed(encoded, 3)
    assert list(chain(*blocks)) == sorted({number * 2**40 for number in NUMBERS.tolist() if number >= 0})
    for record, numbers in zip(encoded.records, indices, strict=True):
        assert [number >= 0 for number in numbers] == [value >= 0 for value in record.users.values.to_pylist()]


def test_blocks_share_out_ratings_not_ids():
    # 50 ids have 60 ratings each, 1,000 have one: by ids the first block would hold all of the former.
    ids = np.concatenate([np.repeat(np.arange(50), 60), np.arange(50, 1050)])
    encoded = encoded_users(pa.array(ids), n_partitions=4)
    blocks, _, _ = indexed(encoded, 4)
    counts = dict(zip(*np.unique(ids, return_counts=True), strict=True))
    sizes = [sum(counts[i] for i in block) for block in blocks]
    assert max(sizes) < 1.3 * 1000


@pytest.mark.parametrize("ids", [[7], [7, 7, 7, 9], [1, 2]])
def test_more_blocks_than_ids(ids):
    encoded = encoded_users(pa.array(ids), n_partitions=1)
    blocks, bounds, _ = indexed(encoded, 6)
    assert list(chain(*blocks)) == sorted(set(ids))
    assert len(bounds) == 7


def test_more_ids_than_an_index_can_number_are_refused(monkeypatch):
    monkeypatch.setattr(wide_index, "MAX_INDEX", 3)
    encoded = encoded_users(pa.array([1, 2, 3, 4]))
    with pytest.raises(wide_index.CapacityError, match="found 4 distinct user ids; at most 3 are supported"):
        index_wide_side(encoded, "user", 2)
