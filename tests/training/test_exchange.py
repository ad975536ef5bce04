"""Factors too large for one place give what small ones give."""

import pickle

import numpy as np
import pytest
from pyspark import SparkContext

from mfspark import ALS
from mfspark.training import exchange
from tests.asserts import assert_factors_close, factors_by_id
from tests.builders import OBJECTIVES, ratings_table, skewed_ratings
from tests.conftest import BOTH_WIDE, N_WIDE_ITEMS, NONE_WIDE, USERS_WIDE, WIDE_RANK


def assert_same_model(model, expected, rtol=1e-6, atol=1e-6):
    for table in ("userFactors", "itemFactors"):
        ours, theirs = (getattr(m, table) for m in (model, expected))
        assert ours.schema == theirs.schema
        assert_factors_close(factors_by_id(ours), factors_by_id(theirs), rtol=rtol, atol=atol)
        if "bias" in ours.columns:
            biases = [[row["bias"] for row in table.orderBy("id").collect()] for table in (ours, theirs)]
            np.testing.assert_allclose(*biases, rtol=rtol, atol=atol)
    for ours, theirs in zip(model.summary.history, expected.summary.history, strict=True):
        for name in ("squared_error", "user_penalty", "item_penalty", "rmse", "validation_rmse"):
            found, wanted = getattr(ours, name), getattr(theirs, name)
            assert found == (wanted and pytest.approx(wanted, rel=1e-5, abs=1e-5)), name


@pytest.mark.spark
@pytest.mark.parametrize("settings", [*OBJECTIVES.values(), {"solver": "cg"}, {"solver": "subspace", "biases": True}])
def test_exchanged_factors_are_those_that_are_broadcast(wide_ratings, fit_wide, settings):
    expected, users, both = (
        fit_wide(wide_ratings, maxBroadcastBytes=n_bytes, **settings) for n_bytes in (NONE_WIDE, USERS_WIDE, BOTH_WIDE)
    )
    # A solver that starts from the old factors amplifies their rounding.
    starts_from_old = settings.get("solver") in ("cg", "subspace")
    assert_same_model(users, expected, **({"rtol": 1e-4, "atol": 1e-5} if starts_from_old else {}))
    # Of two wide sides, scales are multiplied in another order.
    assert_same_model(
        both, expected, **({"rtol": 1e-4, "atol": 2e-5} if starts_from_old else {"rtol": 1e-5, "atol": 5e-6})
    )


@pytest.mark.spark
def test_the_number_of_blocks_does_not_matter_to_exchanged_factors(wide_ratings, fit_wide):
    expected = fit_wide(wide_ratings, max_iter=2, maxBroadcastBytes=NONE_WIDE)
    for blocks in [(1, 1), (12, 26)]:
        found = fit_wide(wide_ratings, blocks=blocks, max_iter=2, maxBroadcastBytes=USERS_WIDE)
        assert_same_model(found, expected, rtol=1e-5)


@pytest.mark.spark
def test_a_wide_item_side(wide_ratings, fit_wide):
    turned = wide_ratings.selectExpr("item AS user", "user AS item", "rating", "judges")
    expected = fit_wide(turned, maxBroadcastBytes=NONE_WIDE, implicitPrefs=True)
    found = fit_wide(turned, maxBroadcastBytes=USERS_WIDE, implicitPrefs=True)
    assert_same_model(found, expected, rtol=1e-5)


@pytest.mark.spark
def test_factors_of_a_wide_side_do_not_reach_the_driver(wide_ratings, fit_wide, monkeypatch):
    arrived = []
    original = exchange.update_side

    def spy(blocked, side, *args):
        updates, wide = original(blocked, side, *args)
        arrived.append((side, sum(update.factors.nbytes + update.scales.nbytes for update in updates)))
        return updates, wide

    monkeypatch.setattr("mfspark.training.als.update_side", spy)
    fit_wide(wide_ratings, max_iter=2, maxBroadcastBytes=USERS_WIDE)
    # Of each user block one number; of the items rank float32 and one float64 each.
    assert arrived == [("item", N_WIDE_ITEMS * (4 * WIDE_RANK + 8)), ("user", 3 * 8)] * 2


@pytest.mark.spark
def test_parts_of_a_row_meet_exchanged_factors(spark, fit_wide, monkeypatch):
    users, items, values = skewed_ratings()
    table = ratings_table(users, items, values).append_column("judges", [(users % 5 == items % 5).tolist()])
    ratings = spark.createDataFrame(table)
    expected = fit_wide(ratings)
    monkeypatch.setattr("mfspark.blocks.index._LEAST_SPLIT", 8)
    found = fit_wide(ratings, blocks=(4, 10), maxBroadcastBytes=USERS_WIDE)
    assert_same_model(found, expected, rtol=1e-4)


@pytest.mark.spark
@pytest.mark.classic
def test_every_broadcast_of_training_is_destroyed_but_those_of_the_model(wide_ratings, monkeypatch):
    made = []
    original = SparkContext.broadcast

    def broadcast(context, value):
        made.append(original(context, value))
        return made[-1]

    monkeypatch.setattr(SparkContext, "broadcast", broadcast)
    ALS(rank=2, maxIter=2, engine="rdd").setNumBlocks(2).fit(wide_ratings)
    assert len(made) == 7  # the layout of the blocks, each half-iteration, and the model's two tables
    assert [sent._jbroadcast.isValid() for sent in made] == [False] * 5 + [True] * 2


def test_padded_factors_travel_without_their_padding():
    factors = np.random.default_rng(0).random((7, 10), np.float32)
    sent = pickle.dumps(exchange.PaddedFactors(factors), 5)
    assert len(sent) < factors.nbytes + 500
    arrived = pickle.loads(sent).matrix
    assert (arrived.shape, arrived.ctypes.data % 64) == ((7, 16), 0)
    np.testing.assert_array_equal(arrived[:, :10], factors)
