"""In-blocks built through Spark hold every rating twice, in the same order whatever the partitions."""

import numpy as np
import pyarrow as pa
import pytest
from pyspark import StorageLevel

from mfspark.stages import block
from mfspark.stages.block import block_ratings
from tests.builders import random_ratings

pytestmark = pytest.mark.spark

USERS, ITEMS, RATINGS = random_ratings(seed=1, n_users=23, n_items=11, n_ratings=120)


def collect_blocks(spark, user_bounds, item_bounds, n_partitions=3, is_validation=None):
    table = pa.table(
        {
            "user": USERS,
            "item": ITEMS,
            "rating": RATINGS,
            "is_validation": np.zeros(len(USERS), bool) if is_validation is None else is_validation,
        }
    )
    blocked = block_ratings(
        spark.createDataFrame(table).repartition(n_partitions),
        np.array(user_bounds),
        np.array(item_bounds),
        StorageLevel.MEMORY_ONLY,
    )
    blocks = blocked.rdd.glom().collect()
    blocked.unpersist()
    return blocked, blocks


def entries(block):
    """(destination, source, rating) of every entry."""
    rows = np.repeat(np.arange(block.n_rows) + block.first_row, np.diff(block.offsets))
    return list(zip(rows.tolist(), block.src.tolist(), block.ratings.tolist(), strict=True))


def test_every_rating_stands_once_by_user_and_once_by_item(spark):
    blocked, partitions = collect_blocks(spark, [0, 5, 23], [0, 4, 4, 11])
    user_blocks = [partitions[number][0].train for number in blocked.partitions("user")]
    item_blocks = [partitions[number][0].train for number in blocked.partitions("item")]
    assert [(block.first_row, block.n_rows) for block in user_blocks] == [(0, 5), (5, 18)]
    assert [(block.first_row, block.n_rows) for block in item_blocks] == [(0, 4), (4, 7)]
    pairs = sorted(zip(USERS.tolist(), ITEMS.tolist(), RATINGS.tolist(), strict=True))
    assert sorted(entry for block in user_blocks for entry in entries(block)) == pairs
    by_item = [(user, item, rating) for block in item_blocks for item, user, rating in entries(block)]
    assert sorted(by_item) == pairs


def test_blocks_without_rows_are_empty_partitions(spark):
    blocked, partitions = collect_blocks(spark, [0, 5, 23], [0, 4, 4, 11])
    assert blocked.partitions("user") == [0, 1]
    assert blocked.partitions("item") == [2, 4]
    assert partitions[3] == []


def test_blocks_do_not_depend_on_partitions_of_the_input(spark):
    def arrays(n_partitions):
        _, partitions = collect_blocks(spark, [0, 9, 23], [0, 11], n_partitions)
        return [
            [values.tobytes() for values in (block.train.offsets, block.train.src, block.train.ratings)]
            for partition in partitions
            for block in partition
        ]

    assert arrays(1) == arrays(2) == arrays(5)


def test_validation_ratings_stand_apart_and_by_user_only(spark):
    is_validation = np.arange(len(USERS)) % 4 == 0
    _, ((by_user,), (by_item,)) = collect_blocks(spark, [0, 23], [0, 11], is_validation=is_validation)
    pairs = list(zip(USERS.tolist(), ITEMS.tolist(), RATINGS.tolist(), strict=True))
    expected = sorted(pair for pair, flag in zip(pairs, is_validation, strict=True) if flag)
    assert entries(by_user.validation) == expected
    assert by_item.validation.src.size == 0
    assert by_item.train.src.size == by_user.train.src.size == len(pairs) - len(expected)


def test_large_partitions_are_sorted_in_parts(monkeypatch):
    # The limit is read in the Python workers, so the generator is called here, as an executor would.
    monkeypatch.setattr(block, "_RATINGS_IN_MEMORY", 50)
    batch = pa.RecordBatch.from_pydict(
        {"user": USERS, "item": ITEMS, "rating": RATINGS, "is_validation": np.zeros(len(USERS), bool)}
    )
    tables = list(block._gather(batch.slice(start, 30) for start in range(0, len(USERS), 30)))
    assert [table.num_rows for table in tables] == [60, 60]
