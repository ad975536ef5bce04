"""Ratings are blocked where they suit, in as many blocks as suit them."""

import logging

import numpy as np
import pytest

from mfspark import ALS
from tests.builders import random_ratings, ratings_table
from tests.local import columns_of, fit_without_spark

USERS, ITEMS, VALUES = random_ratings(seed=12, n_users=30, n_items=15, n_ratings=200)


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


def test_blocks_may_be_ours_to_choose():
    expected, found = (
        fit_without_spark(ALS(rank=2, maxIter=2).setNumBlocks(n), columns_of(USERS, ITEMS, VALUES)) for n in (10, 0)
    )
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-5)


@pytest.mark.spark
@pytest.mark.parametrize(("limits", "engine"), [({}, "local"), ({"_MAX_LOCAL_FACTOR_BYTES": 4 * 3 * 29}, "rdd")])
def test_small_ratings_and_factors_train_on_the_driver(ratings, monkeypatch, caplog, limits, engine):
    for name, value in limits.items():  # 30 users at rank 3 are one too many
        monkeypatch.setattr(f"mfspark.blocks.prepare.{name}", value)
    with caplog.at_level(logging.INFO, logger="mfspark"):
        model = ALS(rank=3, maxIter=1).fit(ratings)
    assert model.summary.engine == engine
    assert [line for line in caplog.messages if f"(engine {engine})" in line]


@pytest.mark.spark
def test_many_ratings_train_on_the_executors(ratings, monkeypatch):
    monkeypatch.setattr("mfspark.engine.choice.MAX_LOCAL_ROWS", 199)
    assert ALS(rank=2, maxIter=1).fit(ratings).summary.engine == "rdd"


@pytest.mark.spark
def test_blocks_are_kept_at_the_intermediate_storage_level(spark, ratings):
    als = ALS(rank=2, maxIter=1, intermediateStorageLevel="DISK_ONLY", engine="rdd").setNumBlocks(2)
    models = als.fitMultiple(ratings, [{}, {als.regParam: 0.5}])
    next(models)  # the second map still needs the blocks
    levels = [rdd.getStorageLevel() for rdd in spark.sparkContext._jsc.getPersistentRDDs().values()]
    assert levels
    assert all(level.useDisk() and not level.useMemory() for level in levels)
    next(models)
