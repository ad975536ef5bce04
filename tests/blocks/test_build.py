"""In-blocks hold every rating twice, in the same order whatever the partitions."""

import numpy as np
import pyarrow as pa
import pytest

from mfspark.blocks import build as block
from mfspark.blocks.build import SideIds, build_blocks, layout_of
from mfspark.blocks.encode import Encoded, EncodedRatings, encode_ratings
from mfspark.blocks.index import index_ratings
from mfspark.errors import DataError
from mfspark.kernels.balance import whole_rows
from tests.builders import random_ratings
from tests.local import columns_of, parts_of

USERS, ITEMS, RATINGS = random_ratings(seed=1, n_users=23, n_items=11, n_ratings=120)


def collect_blocks(n_user_blocks, n_item_blocks, n_partitions=3, is_validation=None, ratings=RATINGS):
    others = {} if is_validation is None else {"is_validation": is_validation}
    # In any order: partitions of real input are not sorted.
    order = np.random.default_rng(n_partitions).permutation(len(USERS))
    encoded = encode_ratings(parts_of(columns_of(USERS, ITEMS, ratings, **others).take(order), n_partitions))
    index = index_ratings(encoded)
    ids = SideIds(index.users, index.items)
    layout = layout_of(index, ids, n_user_blocks, n_item_blocks)
    blocked = build_blocks(encoded, index, layout, ids)
    partitions = [
        [(block.train.unpack(), block.validation.unpack()) for block in partition]
        for partition in blocked.users.parts.parts
    ]
    blocked.release()
    return blocked, partitions


def entries(block):
    """(destination, source, rating) of every entry."""
    rows = np.repeat(np.arange(block.n_rows) + block.first_row, np.diff(block.offsets))
    return list(zip(rows.tolist(), block.src.tolist(), block.ratings.tolist(), strict=True))


def pairs_of(ratings=RATINGS):
    return list(zip(USERS.tolist(), ITEMS.tolist(), ratings.tolist(), strict=True))


# Half-stars have a table of codes, the logarithms too many values for one.
@pytest.mark.parametrize("ratings", [RATINGS, np.log(1 + np.arange(len(RATINGS), dtype=np.float32))])
def test_every_rating_stands_once_by_user_and_once_by_item(monkeypatch, ratings):
    monkeypatch.setattr("mfspark.blocks.index.MAX_RATING_VALUES", 100)
    blocked, partitions = collect_blocks(2, 3, ratings=ratings)
    user_blocks = [partitions[number][0][0] for number in blocked.users.used]
    item_blocks = [partitions[number][0][0] for number in blocked.items.used]
    for blocks, n_rows in ((user_blocks, 23), (item_blocks, 11)):
        ends = [block.first_row + block.n_rows for block in blocks]
        assert [block.first_row for block in blocks] == [0, *ends[:-1]]
        assert ends[-1] == n_rows
    pairs = sorted(pairs_of(ratings))
    assert sorted(entry for block in user_blocks for entry in entries(block)) == pairs
    by_item = [(user, item, rating) for block in item_blocks for item, user, rating in entries(block)]
    assert sorted(by_item) == pairs


def test_blocks_without_rows_are_empty_partitions():
    blocked, partitions = collect_blocks(2, 20)
    assert blocked.users.used == [0, 1]
    used = set(blocked.items.used)
    assert len(used) <= 11
    assert [number for number, partition in enumerate(partitions) if number >= 2 and partition] == sorted(used)


def test_blocks_do_not_depend_on_partitions_of_the_input():
    def arrays(n_partitions):
        _, partitions = collect_blocks(2, 1, n_partitions)
        return [
            [values.tobytes() for values in (train.offsets, train.src, train.ratings)]
            for partition in partitions
            for train, _ in partition
        ]

    assert arrays(1) == arrays(2) == arrays(5)


def test_validation_ratings_stand_apart_and_by_user_only():
    is_validation = np.arange(len(USERS)) % 4 == 0
    _, (((user_train, user_validation),), ((item_train, item_validation),)) = collect_blocks(
        1, 1, is_validation=is_validation
    )
    expected = sorted(pair for pair, flag in zip(pairs_of(), is_validation, strict=True) if flag)
    assert entries(user_validation) == expected
    assert item_validation.src.size == 0
    assert item_train.src.size == user_train.src.size == len(RATINGS) - len(expected)


def test_validation_ratings_of_ids_that_are_not_trained_fall_out():
    is_validation = USERS == 7
    blocked, (((user_train, user_validation),), _) = collect_blocks(1, 1, is_validation=is_validation)
    assert blocked.users.ranges.n_rows == 22
    assert user_train.n_rows == 22
    assert user_validation.src.size == 0


def test_ratings_that_are_not_those_of_the_index_are_refused():
    table = columns_of(USERS, ITEMS, RATINGS)
    index = index_ratings(encode_ratings(parts_of(table)))
    ids = SideIds(index.users, index.items)
    layout = layout_of(index, ids, 2, 2)
    with pytest.raises(DataError, match="the ratings changed between two reads: 120 in the first, 99 with known"):
        build_blocks(encode_ratings(parts_of(table.slice(0, 99))), index, layout, ids)
    n_unknown = int((USERS == 3).sum())
    renamed = columns_of(np.where(USERS == 3, 1000, USERS), ITEMS, RATINGS)
    with pytest.raises(DataError, match=f"120 in the first, {120 - n_unknown} with known"):
        build_blocks(encode_ratings(parts_of(renamed)), index, layout, ids)


class Sent:
    """A broadcast that never left."""

    def __init__(self, value):
        self.value = value


def test_a_block_is_cut_into_records_of_about_the_same_size(monkeypatch):
    monkeypatch.setattr(block, "_RATINGS_IN_RECORD", 30)
    monkeypatch.setattr(block, "_RATINGS_IN_PIECE", 7)
    user_ids, item_ids = pa.array(np.arange(23)), pa.array(np.arange(11))
    layout = block.Layout(user_ids, item_ids, None, whole_rows(np.array([0, 23])), whole_rows(np.array([0, 11])))
    is_validation = np.arange(len(USERS)) % 5 == 0
    encoded = EncodedRatings(
        Encoded(user_ids, USERS.astype(np.int32)),
        Encoded(item_ids, ITEMS.astype(np.int32)),
        RATINGS.astype(np.float32),
        None,
        is_validation,
        {},
    )
    pieces = list(block._cut_into_pieces(layout, ["user"], (encoded, {})))
    assert max(piece.src.size for _, piece in pieces) == 7
    blocks = list(block._build_block(Sent(layout), ["user"], 0, pieces))
    sizes = [part.train.src.size + part.validation.src.size for part in blocks]
    assert len(blocks) == 4
    assert max(sizes) <= 30 + np.bincount(USERS).max()
    for number, chosen in enumerate((~is_validation, is_validation)):
        parts = [part[number].unpack() for part in blocks]
        assert [part.first_row for part in parts] == [0, *np.cumsum([part.n_rows for part in parts])[:-1]]
        expected = [pair for pair, is_chosen in zip(pairs_of(), chosen, strict=True) if is_chosen]
        assert sorted(entry for part in parts for entry in entries(part)) == sorted(expected)
