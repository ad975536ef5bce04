"""SGD: strata and learning rates alone, and epochs on threads of this process; no JVM is started."""

from itertools import pairwise

import numpy as np
import pytest

from mfspark import SGD
from mfspark.errors import NumericalError
from mfspark.training import sgd as solver
from mfspark.training.loop import IterationRecord
from mfspark.training.objective import Explicit, Regularization
from mfspark.training.sgd import StochasticGradientDescent, strata
from tests.builders import TOY_RATINGS, random_ratings, skewed_ratings
from tests.local import columns_of, fit_without_spark

USERS, ITEMS, VALUES = random_ratings(seed=5, n_users=31, n_items=17, n_ratings=200)
RATINGS = columns_of(USERS, ITEMS, VALUES)


def assert_same_bytes(model, expected):
    assert model.ids == expected.ids
    assert (model.X.tobytes(), model.Y.tobytes()) == (expected.X.tobytes(), expected.Y.tobytes())


def test_toy_matrix_is_trained():
    users, items, ratings = zip(*TOY_RATINGS, strict=True)
    sgd = SGD(rank=2, maxIter=100, regParam=0.02, learningRate=0.15, decay=0.01, numBlocks=2, seed=1)
    model = fit_without_spark(sgd, columns_of(users, items, ratings))
    assert model.predict(users, items) == pytest.approx(ratings, abs=0.2)


@pytest.mark.parametrize("schedule", ["constant", "inverse", "bold", "adagrad"])
def test_history_is_the_objective_of_the_factors(schedule):
    settings = {"userRegParam": 0.07, "itemRegParam": 0.05, "biasRegParam": 0.02, "numBlocks": 3}
    model = fit_without_spark(SGD(rank=3, maxIter=3, biases=True, schedule=schedule, **settings), RATINGS)
    X, Y = model.X.astype(float), model.Y.astype(float)
    errors = VALUES - VALUES.mean() - X[USERS, 3] - Y[ITEMS, 3] - (X[USERS, :3] * Y[ITEMS, :3]).sum(axis=1)
    last = model.summary.history[-1]
    assert last.squared_error == pytest.approx((errors**2).sum(), rel=1e-4)
    for penalty, factors, of_factors in ((last.user_penalty, X[USERS], 0.07), (last.item_penalty, Y[ITEMS], 0.05)):
        expected = of_factors * (factors[:, :3] ** 2).sum() + 0.02 * (factors[:, 3] ** 2).sum()
        assert penalty == pytest.approx(expected, rel=1e-4)
    assert all(after < before for before, after in pairwise(model.summary.objective_history))


def test_result_does_not_depend_on_partitions_or_the_order_of_rows():
    sgd = SGD(rank=3, maxIter=2, numBlocks=3, seed=7)
    scattered = fit_without_spark(sgd, RATINGS.take(np.argsort(VALUES)), n_parts=5)
    assert_same_bytes(scattered, fit_without_spark(sgd, RATINGS))


def test_cells_of_a_stratum_may_descend_in_any_order_or_at_once(monkeypatch):
    sgd = SGD(rank=3, maxIter=2, numBlocks=3, schedule="adagrad", biases=True)
    at_once, strata = fit_without_spark(sgd, RATINGS), solver.strata
    monkeypatch.setattr(
        solver, "strata", lambda *which: [[cell] for stratum in strata(*which) for cell in reversed(stratum)]
    )
    assert_same_bytes(fit_without_spark(sgd, RATINGS), at_once)


def test_validation_ratings_are_judged_and_not_trained_on():
    held = VALUES == 0.5
    sgd = SGD(rank=3, maxIter=2, numBlocks=2)
    model = fit_without_spark(sgd, columns_of(USERS, ITEMS, VALUES, is_validation=held))
    errors = model.predict(USERS[held], ITEMS[held]) - 0.5
    assert model.summary.history[-1].validation_rmse == pytest.approx((errors**2).mean() ** 0.5, rel=1e-4)
    without = fit_without_spark(sgd, RATINGS.filter(~held))
    assert without.summary.history[-1].rmse == pytest.approx(model.summary.history[-1].rmse, rel=0.05)


def test_weights_scale_the_steps():
    weighted = columns_of(USERS, ITEMS, VALUES, weight=np.full(200, 0.5))
    half = fit_without_spark(SGD(rank=3, maxIter=2, numBlocks=2, weightCol="weight"), weighted)
    slower = fit_without_spark(SGD(rank=3, maxIter=2, numBlocks=2, learningRate=0.01), RATINGS)
    assert half.summary.history[-1].rmse == pytest.approx(slower.summary.history[-1].rmse, rel=1e-5)
    assert half.summary.history[-1].objective == pytest.approx(slower.summary.history[-1].objective / 2, rel=1e-5)


@pytest.mark.parametrize(("schedule", "rate"), [("constant", 2.0), ("adagrad", 1e3)])
def test_divergence_is_seen_and_said_at_once(schedule, rate):
    # The first one ends in NaN, the other in large numbers.
    with pytest.raises(NumericalError, match=r"diverged in epoch 1 .*lower learningRate"):
        fit_without_spark(SGD(rank=3, maxIter=1, schedule=schedule, learningRate=rate, numBlocks=2), RATINGS)


def test_rows_are_kept_whole(monkeypatch):
    sgd, ratings = SGD(rank=4, maxIter=2, numBlocks=4), columns_of(*skewed_ratings())
    expected = fit_without_spark(sgd, ratings)
    monkeypatch.setattr("mfspark.blocks.index._LEAST_SPLIT", 8)
    assert_same_bytes(fit_without_spark(sgd, ratings), expected)


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 8])
def test_strata_are_disjoint_and_cover_all_cells(n_blocks):
    epoch = strata(n_blocks, seed=4, epoch=2)
    for stratum in epoch:
        users, items = zip(*(divmod(cell, n_blocks) for cell in stratum), strict=True)
        assert len(set(users)) == len(set(items)) == n_blocks
    assert sorted(cell for stratum in epoch for cell in stratum) == list(range(n_blocks**2))


def test_order_of_strata_depends_on_seed_and_epoch():
    orders = [tuple(map(tuple, strata(8, seed, epoch))) for seed, epoch in ((1, 1), (1, 1), (1, 2), (2, 1))]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


def rate_after(schedule, objectives):
    solver = StochasticGradientDescent(2, Regularization(0.1, 0.1), Explicit(), 0.2, schedule, 0.5, seed=0)
    history = [IterationRecord(n, value, 0.0, 0.0, None, None, 0.0) for n, value in enumerate(objectives, 1)]
    return solver.learning_rate_of(history)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.2, 0.2, 0.2, 0.2]),
        ("inverse", [0.2, 0.2 / 1.5, 0.2 / 2, 0.2 / 2.5]),
        ("bold", [0.2, 0.2, 0.2 * 1.05, 0.2 * 1.05 * 0.5]),
        ("adagrad", [0.2, 0.2, 0.2, 0.2]),
    ],
)
def test_learning_rate_follows_its_schedule(schedule, rates):
    objectives = [9.0, 8.0, 8.5]
    assert [rate_after(schedule, objectives[:n]) for n in range(4)] == pytest.approx(rates)
