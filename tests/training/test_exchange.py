"""Factors too large for one place, and rows too large for one block, give what small ones give."""

import logging
import pickle

import numpy as np
import pytest

from mfspark import ALS, SGD
from mfspark.blocks.blocked import BlockedRatings
from mfspark.engine.rdd import RddEngine
from mfspark.errors import CapacityError, ConfigError, NumericalError
from mfspark.training import exchange
from mfspark.training.als import AlternatingLeastSquares
from tests.asserts import assert_factors_close, assert_same_bytes, factors_by_id
from tests.builders import random_ratings, ratings_table

pytestmark = pytest.mark.spark

N_USERS, N_ITEMS, RANK = 40, 25, 4
USERS, ITEMS, VALUES = random_ratings(seed=9, n_users=N_USERS, n_items=N_ITEMS, n_ratings=300)
# Bytes that the factors of both sides exceed, of the users only, of none.
BOTH, ONE, NONE = 100, 4 * RANK * (N_ITEMS + 5), 1 << 30
OBJECTIVES = {
    "explicit": {},
    "biases": {"biases": True, "weightCol": "weight"},
    "implicit": {"implicitPrefs": True, "alpha": 2.0},
    "iALS": {"implicitPrefs": True, "alpha": 0.0, "unobservedWeight": 0.1, "regScaling": 0.7},
    "nonnegative": {"nonnegative": True},
}


@pytest.fixture
def ratings(spark):
    table = ratings_table(USERS, ITEMS, VALUES).append_column("weight", [(VALUES + 1).tolist()])
    table = table.append_column("judges", [(np.arange(len(USERS)) % 7 == 0).tolist()])
    return spark.createDataFrame(table).repartition(3)


def fit(ratings, *, blocks=(3, 2), max_iter=3, engine="rdd", **settings):
    als = ALS(
        rank=RANK, maxIter=max_iter, seed=1, numUserBlocks=blocks[0], numItemBlocks=blocks[1], engine=engine, **settings
    ).setValidationIndicatorCol("judges")
    model = als.fit(ratings)
    MODELS.append(model)
    return model


MODELS = []


@pytest.fixture(autouse=True)
def forget_models(spark):  # noqa: ARG001  # before the session looks for what is still cached
    """Drop what models with a wide side keep."""
    yield
    for model in MODELS:
        for factors in model.factorTables:
            factors.batches.drop()
    MODELS.clear()


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


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("max_bytes", [BOTH, ONE])
def test_exchanged_factors_are_those_that_are_broadcast(ratings, objective, max_bytes):
    expected = fit(ratings, maxBroadcastBytes=NONE, **OBJECTIVES[objective])
    found = fit(ratings, maxBroadcastBytes=max_bytes, **OBJECTIVES[objective])
    # Of two wide sides, scales are multiplied in another order.
    rounding = {} if max_bytes == ONE else {"rtol": 1e-5, "atol": 5e-6}
    assert_same_model(found, expected, **rounding)


@pytest.mark.parametrize("blocks", [(1, 1), (12, 26)])
def test_the_number_of_blocks_does_not_matter_to_exchanged_factors(ratings, blocks):
    expected = fit(ratings, maxBroadcastBytes=NONE)
    found = fit(ratings, blocks=blocks, maxBroadcastBytes=ONE)
    assert_same_model(found, expected, rtol=1e-5)


def test_a_wide_item_side(ratings):
    turned = ratings.selectExpr("item AS user", "user AS item", "rating", "judges")
    expected = fit(turned, maxBroadcastBytes=NONE, implicitPrefs=True)
    found = fit(turned, maxBroadcastBytes=ONE, implicitPrefs=True)
    assert_same_model(found, expected, rtol=1e-5)


def test_string_ids_of_a_wide_side_come_back(ratings):
    named = ratings.selectExpr("concat('u', user) AS user", "item", "rating", "judges")
    expected, found = (fit(named, maxBroadcastBytes=n) for n in (NONE, ONE))
    assert_same_model(found, expected)
    pairs = named.limit(20)
    predictions = [
        {(row.user, row.item): row.prediction for row in model.transform(pairs).collect()}
        for model in (found, expected)
    ]
    assert predictions[0] == pytest.approx(predictions[1], rel=1e-5)
    assert found.recommendForAllUsers(3, seen=named).count() == N_USERS


def test_factors_of_a_wide_side_do_not_reach_the_driver(ratings, monkeypatch):
    arrived = []
    original = exchange.update_side

    def spy(blocked, side, *args):
        updates, wide = original(blocked, side, *args)
        arrived.append((side, sum(update.factors.nbytes + update.scales.nbytes for update in updates)))
        return updates, wide

    monkeypatch.setattr("mfspark.training.als.update_side", spy)
    fit(ratings, max_iter=2, maxBroadcastBytes=ONE)
    # Of each user block one number; of the items rank float32 and one float64 each.
    assert arrived == [("item", N_ITEMS * (4 * RANK + 8)), ("user", 3 * 8)] * 2


def test_how_factors_travel_is_announced(ratings, caplog):
    with caplog.at_level(logging.INFO, logger="mfspark"):
        fit(ratings, max_iter=1, maxBroadcastBytes=ONE)
    assert "40 users in 3 blocks, factors of 0.00064 MB: exchanged block to block" in caplog.messages
    assert "25 items in 2 blocks, factors of 0.0004 MB: broadcast" in caplog.messages


def test_the_limit_is_taken_from_the_memory_of_an_executor(spark):
    # One GiB, Spark's default, halved, for two cores.
    assert RddEngine(spark).max_sent_bytes == 2**28


def test_older_factors_are_dropped_while_training_goes_on(ratings, monkeypatch):
    kept = []
    original = BlockedRatings.drop_all_but
    monkeypatch.setattr(
        BlockedRatings,
        "drop_all_but",
        lambda blocked, wanted: original(blocked, wanted) or kept.append(len(blocked._kept)),
    )
    fit(ratings, max_iter=4, maxBroadcastBytes=BOTH)
    assert kept == [2, 2, 2, 2, 0]


@pytest.mark.parametrize("settings", [{"solver": "cg"}, {"solver": "subspace"}])
def test_a_solver_that_needs_the_old_factors_is_refused_beyond_the_limit(ratings, settings):
    message = "the factors of 40 users take 640 bytes, above the broadcast limit; .* use solver 'cholesky'"
    with pytest.raises(CapacityError, match=message):
        fit(ratings, maxBroadcastBytes=ONE, **settings)


def test_sgd_broadcasts_whatever_it_has(ratings, monkeypatch, caplog):
    monkeypatch.setattr(RddEngine, "max_sent_bytes", 1)
    with caplog.at_level(logging.INFO, logger="mfspark"):
        SGD(rank=RANK, maxIter=1, numBlocks=2, engine="rdd").fit(ratings)
    assert [message for message in caplog.messages if message.endswith(": broadcast")] == [
        "40 users in 2 blocks, factors of 0.00064 MB: broadcast",
        "25 items in 2 blocks, factors of 0.0004 MB: broadcast",
    ]


def test_a_singular_row_of_a_wide_side_is_named(ratings):
    als = ALS(
        rank=20, maxIter=1, regParam=0, numUserBlocks=2, numItemBlocks=2, maxBroadcastBytes=4 * 20 * 30, engine="rdd"
    )
    everybody = ratings.selectExpr("user", "explode(sequence(0, if(user = 7, 18, 24))) AS item").distinct()
    everybody = everybody.selectExpr("*", "pmod(hash(user, item), 11) AS rating")
    with pytest.raises(NumericalError, match=r"user 7 has no unique solution \(rank 20, regularization 0\)"):
        als.fit(everybody)


@pytest.mark.parametrize("max_bytes", [ONE, NONE])
def test_training_goes_on_from_a_model_with_wide_users(ratings, max_bytes):
    whole = fit(ratings, max_iter=4, maxBroadcastBytes=NONE)
    half = fit(ratings, max_iter=2, maxBroadcastBytes=ONE)
    found = fit(ratings, max_iter=2, maxBroadcastBytes=max_bytes, initialModel=half)
    assert found.summary.objective_history == pytest.approx(whole.summary.objective_history[2:], rel=1e-6)


def test_no_start_from_a_model_where_both_sides_are_wide(ratings):
    model = fit(ratings, max_iter=1, maxBroadcastBytes=NONE)
    with pytest.raises(CapacityError, match="the user and item factors are both above the broadcast limit"):
        fit(ratings, maxBroadcastBytes=BOTH, initialModel=model)


SPLIT = {**OBJECTIVES, "cg": {"solver": "cg", "cgSteps": 20}, "subspace": {"solver": "subspace"}}


@pytest.fixture
def skewed(spark):
    """One user rates everything, one item is rated by everybody; of ten blocks either should have more than two."""
    pairs = sorted(
        {(user, 0) for user in range(40)} | {(0, item) for item in range(30)} | {(u, u % 30) for u in range(40)}
    )
    values = np.random.default_rng(2).integers(1, 11, len(pairs)) / 2
    rows = [
        (user, item, float(value), float(value) + 1, user % 5 == item % 5)
        for (user, item), value in zip(pairs, values, strict=True)
    ]
    return spark.createDataFrame(rows, "user int, item int, rating float, weight float, judges boolean")


@pytest.mark.parametrize("objective", SPLIT)
def test_rows_in_parts_have_the_factors_of_whole_ones(skewed, monkeypatch, objective):
    settings = {"regParam": 0.3, **SPLIT[objective]}
    expected = fit(skewed, **settings)
    monkeypatch.setattr("mfspark.blocks.index._LEAST_SPLIT", 8)
    summed = set()
    update_row = AlternatingLeastSquares.update_row
    monkeypatch.setattr(
        AlternatingLeastSquares,
        "update_row",
        lambda solver, side, sums, *args: summed.add((side, sums.row)) or update_row(solver, side, sums, *args),
    )
    found = fit(skewed, blocks=(10, 10), **settings)
    assert summed == {("user", 0), ("item", 0)}
    # Conjugate gradients and subspaces come nearer to what a row in parts is at once.
    assert_same_model(found, expected, rtol=1e-4 if "solver" not in settings else 0.05, atol=5e-6)


@pytest.mark.parametrize("objective", ["biases", "implicit", "iALS"])
def test_training_with_rows_in_parts_goes_on_to_the_same_bytes(skewed, monkeypatch, objective):
    monkeypatch.setattr("mfspark.blocks.index._LEAST_SPLIT", 8)
    settings = {"blocks": (10, 10), **OBJECTIVES[objective]}
    whole, half = (fit(skewed, max_iter=n, **settings) for n in (2, 1))
    resumed = fit(skewed, max_iter=1, initialModel=half, **settings)
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(factors_by_id(getattr(resumed, table)), factors_by_id(getattr(whole, table)))


def test_parts_of_a_row_meet_exchanged_factors(skewed, monkeypatch):
    expected = fit(skewed)
    monkeypatch.setattr("mfspark.blocks.index._LEAST_SPLIT", 8)
    found = fit(skewed, blocks=(4, 10), maxBroadcastBytes=ONE)
    assert_same_model(found, expected, rtol=1e-4)


def test_sgd_keeps_rows_whole(skewed, monkeypatch):
    settings = {"rank": RANK, "maxIter": 2, "numBlocks": 4}
    expected = SGD(**settings).fit(skewed)
    monkeypatch.setattr("mfspark.blocks.index._LEAST_SPLIT", 8)
    found = SGD(**settings).fit(skewed)
    assert_same_bytes(factors_by_id(found.userFactors), factors_by_id(expected.userFactors))


@pytest.mark.parametrize("objective", ["biases", "iALS"])
def test_a_checkpoint_without_wide_users_goes_on_to_the_same_bytes(ratings, tmp_path, objective):
    settings = {"maxBroadcastBytes": ONE, **OBJECTIVES[objective]}
    whole = fit(ratings, max_iter=4, **settings)
    path = str(tmp_path / "checkpoint")
    fit(ratings, max_iter=2, checkpointPath=path, **settings)
    resumed = fit(ratings, max_iter=4, checkpointPath=path, **settings)
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(factors_by_id(getattr(resumed, table)), factors_by_id(getattr(whole, table)))
    assert resumed.summary.objective_history == whole.summary.objective_history


def test_wide_items_leave_no_checkpoint(ratings, tmp_path, caplog):
    turned = ratings.selectExpr("item AS user", "user AS item", "rating", "judges")
    with caplog.at_level(logging.WARNING, logger="mfspark"):
        fit(turned, max_iter=1, maxBroadcastBytes=ONE, checkpointPath=str(tmp_path / "checkpoint"))
    assert [message for message in caplog.messages if "starts over if it is interrupted" in message]
    assert not list(tmp_path.glob("checkpoint/*"))
    fit(turned, max_iter=1, maxBroadcastBytes=NONE, checkpointPath=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="maxBroadcastBytes"):
        fit(turned, max_iter=2, maxBroadcastBytes=ONE, checkpointPath=str(tmp_path / "other"))


def test_padded_factors_travel_without_their_padding():
    factors = np.random.default_rng(0).random((7, 10), np.float32)
    sent = pickle.dumps(exchange.PaddedFactors(factors), 5)
    assert len(sent) < factors.nbytes + 500
    arrived = pickle.loads(sent).matrix
    assert (arrived.shape, arrived.ctypes.data % 64) == ((7, 16), 0)
    np.testing.assert_array_equal(arrived[:, :10], factors)
