"""Ratings are blocked where they suit, in as many blocks as suit them."""

import logging

import numpy as np
import pytest

from mfspark import ALS
from mfspark.engine.local import LocalEngine
from tests.asserts import assert_same_bytes, factors_by_id
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
def test_many_ratings_train_on_the_driver_if_it_has_all_the_cores(ratings, monkeypatch):
    expected = ALS(rank=2, maxIter=2, engine="rdd").fit(ratings)
    monkeypatch.setattr("mfspark.engine.choice.MAX_LOCAL_ROWS", 199)
    found = ALS(rank=2, maxIter=2).fit(ratings)
    assert found.summary.engine == "local"
    for side in ("userFactors", "itemFactors"):
        assert_same_bytes(*(factors_by_id(getattr(model, side)) for model in (found, expected)))


@pytest.mark.spark
@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("mfspark.blocks.prepare._MAX_LOCAL_RATINGS", 199),
        ("mfspark.engine.local._count_cores", lambda: 1),
    ],
)
def test_ratings_that_the_driver_cannot_hold_or_serve_as_fast_train_on_the_executors(
    ratings, monkeypatch, limit, value
):
    monkeypatch.setattr("mfspark.engine.choice.MAX_LOCAL_ROWS", 199)
    monkeypatch.setattr(limit, value)
    # As on a cluster, where the number of the driver's cores is not that of the session's.
    monkeypatch.setattr("mfspark.engine.choice.local_engine", LocalEngine)
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
