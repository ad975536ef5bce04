"""Every objective, against the sum over the dense matrix that it stands for; no JVM is started."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from mfspark import ALS
from tests.builders import random_ratings
from tests.local import columns_of, fit_without_spark

USERS, ITEMS, VALUES = random_ratings(seed=5, n_users=31, n_items=17, n_ratings=200)
# Ratings of .5 to 5; centred, a third of them is negative.
SIGNED = VALUES - 2
R, SEEN = np.zeros((31, 17)), np.zeros((31, 17), bool)
R[USERS, ITEMS], SEEN[USERS, ITEMS] = SIGNED, True
RATINGS, FEEDBACK = columns_of(USERS, ITEMS, VALUES), columns_of(USERS, ITEMS, SIGNED)


def matrices(model):
    """Factors in the order of their ids, biases behind them."""
    return model.X.astype(np.float64), model.Y.astype(np.float64)


def objectives_fall(model, tolerance=1e-6):
    return all(after <= before * (1 + tolerance) for before, after in pairwise(model.summary.objective_history))


def implicit_parts(model, alpha, offset, all_pairs_weight=None, n_user=None, n_item=None):
    """Σ c (p − x·y)² over the whole matrix, Σ n |x|², Σ n |y|²."""
    X, Y = matrices(model)
    predictions, preference = X @ Y.T, R > 0
    confidence = np.where(SEEN, offset + alpha * np.abs(R), 0)
    error = (confidence * (preference - predictions) ** 2).sum()
    unobserved = ~SEEN if all_pairs_weight is None else np.ones_like(SEEN)
    error += (1 if all_pairs_weight is None else all_pairs_weight) * (predictions[unobserved] ** 2).sum()
    n_user = preference.sum(axis=1) if n_user is None else n_user
    n_item = preference.sum(axis=0) if n_item is None else n_item
    return error, (n_user @ X**2).sum(), (n_item @ Y**2).sum()


@pytest.mark.parametrize("solver", ["cholesky", "cg", "subspace"])
def test_implicit_history_is_the_objective_over_all_pairs(solver):
    als = ALS(rank=4, maxIter=5, regParam=0.07, implicitPrefs=True, alpha=3.0, solver=solver)
    model = fit_without_spark(als, FEEDBACK)
    error, of_users, of_items = implicit_parts(model, alpha=3.0, offset=1.0)
    last = model.summary.history[-1]
    assert last.squared_error == pytest.approx(error, rel=1e-4)
    assert (last.user_penalty, last.item_penalty) == pytest.approx((0.07 * of_users, 0.07 * of_items), rel=1e-4)
    assert last.rmse is None
    assert objectives_fall(model)


def test_implicit_user_factors_solve_their_normal_equations():
    als = ALS(rank=4, maxIter=3, regParam=0.07, implicitPrefs=True, alpha=3.0)
    X, Y = matrices(fit_without_spark(als, FEEDBACK))
    for user in range(31):
        confidence = np.where(SEEN[user], 1 + 3 * np.abs(R[user]), 1)
        A = Y.T @ (confidence[:, None] * Y) + 0.07 * (R[user] > 0).sum() * np.eye(4)
        np.testing.assert_allclose(A @ X[user], Y.T @ (confidence * (R[user] > 0)), rtol=1e-4, atol=1e-4)


def test_implicit_preferences_are_found():
    # Spark's own test: preferences of rank 2; the error of clipped predictions, weighted by confidence, is below .3.
    random = np.random.default_rng(1)
    preferences = random.uniform(-1, 1, (20, 2)) @ random.uniform(-1, 1, (2, 40))
    users, items = np.nonzero(random.random(preferences.shape) < 0.6)
    values = preferences[users, items]
    als = ALS(rank=4, regParam=0.01, implicitPrefs=True, alpha=1.0)
    predictions = fit_without_spark(als, columns_of(users, items, values)).predict(users, items)
    confidence, errors = 1 + np.abs(values), ((values > 0) - np.clip(predictions, 0, 1)) ** 2
    assert np.sqrt((confidence * errors).sum() / confidence.sum()) < 0.3


def test_a_negative_rating_is_no_missing_one():
    def item_factors(rating):
        als = ALS(rank=2, implicitPrefs=True, alpha=1.0, seed=0).setNumBlocks(1)
        return fit_without_spark(als, columns_of([0, 0, 1, 1], [0, 1, 0, 1], [2.0, 2.0, 2.0, rating])).Y

    assert not np.isclose(item_factors(-3.0), item_factors(0.0)).any()


def test_ials_counts_every_pair_and_scales_regularization_by_a_power():
    als = ALS(rank=4, maxIter=4, regParam=0.07, implicitPrefs=True, alpha=0.0, unobservedWeight=0.3, regScaling=0.5)
    model = fit_without_spark(als, FEEDBACK)
    n_user, n_item = ((R > 0).sum(axis=axis) + 0.3 * n for axis, n in ((1, 17), (0, 31)))
    error, of_users, of_items = implicit_parts(model, 0.0, 1.0, 0.3, n_user**0.5, n_item**0.5)
    last = model.summary.history[-1]
    assert last.squared_error == pytest.approx(error, rel=1e-4)
    assert last.penalty == pytest.approx(0.07 * (of_users + of_items), rel=1e-4)
    assert objectives_fall(model)


def test_the_values_are_confidences_where_the_offset_is_zero():
    als = ALS(rank=4, maxIter=4, regParam=0.5, implicitPrefs=True, confidenceOffset=0.0, regScaling="none")
    model = fit_without_spark(als, FEEDBACK)
    error, of_users, of_items = implicit_parts(model, 1.0, 0.0, None, np.ones(31), np.ones(17))
    assert model.summary.history[-1].squared_error == pytest.approx(error, rel=1e-4)
    assert model.summary.history[-1].penalty == pytest.approx(0.5 * (of_users + of_items), rel=1e-4)
    assert objectives_fall(model)


def test_implicit_factors_do_not_depend_on_block_count():
    one, many = (
        fit_without_spark(ALS(rank=4, maxIter=3, implicitPrefs=True).setNumBlocks(n), FEEDBACK) for n in (1, 7)
    )
    np.testing.assert_allclose(many.X, one.X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many.Y, one.Y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", ["cholesky", "cg", "subspace"])
def test_history_with_biases_is_the_objective_of_the_factors(solver):
    als = ALS(rank=3, maxIter=6, regParam=0.07, biases=True, biasRegParam=0.02, solver=solver)
    model = fit_without_spark(als, RATINGS)
    X, Y = matrices(model)
    assert model.summary.global_mean == pytest.approx(VALUES.mean(), rel=1e-6)
    predictions = VALUES.mean() + X[USERS, 3] + Y[ITEMS, 3] + (X[USERS, :3] * Y[ITEMS, :3]).sum(axis=1)
    last = model.summary.history[-1]
    assert last.squared_error == pytest.approx(((VALUES - predictions) ** 2).sum(), rel=1e-4)
    assert last.rmse == pytest.approx(((VALUES - predictions) ** 2).mean() ** 0.5, rel=1e-4)
    for factors, penalty in ((X[USERS], last.user_penalty), (Y[ITEMS], last.item_penalty)):
        expected = 0.07 * (factors[:, :3] ** 2).sum() + 0.02 * (factors[:, 3] ** 2).sum()
        assert penalty == pytest.approx(expected, rel=1e-4)
    assert objectives_fall(model)


def test_biases_are_solved_with_the_factors():
    X, Y = matrices(fit_without_spark(ALS(rank=3, maxIter=2, regParam=0.07, biases=True), RATINGS))
    for user in range(31):
        chosen = user == USERS
        sources = np.column_stack([Y[ITEMS[chosen], :3], np.ones(chosen.sum())])
        rest = VALUES[chosen] - VALUES.mean() - Y[ITEMS[chosen], 3]
        A = sources.T @ sources + 0.07 * chosen.sum() * np.eye(4)
        np.testing.assert_allclose(X[user], np.linalg.solve(A, sources.T @ rest), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("params", [{}, {"implicitPrefs": True, "alpha": 2.0}, {"biases": True}, {"nonnegative": True}])
def test_a_weight_of_two_is_the_rating_twice(params):
    weighted = columns_of(USERS, ITEMS, VALUES, weight=np.where(ITEMS < 5, 2.0, 1.0))
    repeated = pa.concat_tables([RATINGS, RATINGS.filter(ITEMS < 5)])
    als = ALS(rank=3, maxIter=3, **params)
    with_weights, twice = (
        fit_without_spark(als.copy().setWeightCol("weight"), weighted),
        fit_without_spark(als, repeated),
    )
    np.testing.assert_allclose(with_weights.X, twice.X, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(with_weights.Y, twice.Y, rtol=2e-3, atol=1e-4)
    found, expected = with_weights.summary.history[-1], twice.summary.history[-1]
    assert found.objective == pytest.approx(expected.objective, rel=1e-4)


def test_each_side_has_a_regularization_of_its_own():
    als = ALS(rank=3, maxIter=2, regParam=9.0, userRegParam=0.02, itemRegParam=0.3)
    model = fit_without_spark(als, RATINGS)
    X, Y = matrices(model)
    last = model.summary.history[-1]
    assert last.user_penalty == pytest.approx(0.02 * (X[USERS] ** 2).sum(), rel=1e-4)
    assert last.item_penalty == pytest.approx(0.3 * (Y[ITEMS] ** 2).sum(), rel=1e-4)


@pytest.mark.parametrize("implicit", [False, True])
def test_nonnegative_factors_are_the_best_there_are(implicit):
    als = ALS(rank=4, maxIter=4, regParam=0.05, nonnegative=True, implicitPrefs=implicit)
    model = fit_without_spark(als, RATINGS)
    X, Y = matrices(model)
    assert min(X.min(), Y.min()) == 0
    assert objectives_fall(model)
    for user in range(31):
        seen = np.isin(np.arange(17), ITEMS[user == USERS])
        values = np.zeros(17)
        values[ITEMS[user == USERS]] = VALUES[user == USERS]
        weights = np.where(seen, 1 + values, 1) if implicit else seen.astype(float)
        targets = (values > 0) * weights if implicit else values
        A = Y.T @ (weights[:, None] * Y) + 0.05 * seen.sum() * np.eye(4)
        gradient = A @ X[user] - Y.T @ targets
        # At zero the objective must not fall, elsewhere it must be flat.
        assert np.all(gradient >= -1e-3)
        assert np.all(np.abs(gradient[X[user] > 0]) <= 1e-3)


@pytest.mark.parametrize("params", [{}, {"solver": "cg"}, {"solver": "subspace"}, {"nonnegative": True}])
def test_ratings_of_zero_train_to_factors_of_zero(params):
    model = fit_without_spark(ALS(rank=3, maxIter=3, **params), columns_of(USERS, ITEMS, 0 * VALUES))
    assert max(np.abs(factors).max() for factors in matrices(model)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("params", [{}, {"solver": "cg"}, {"solver": "subspace"}, {"nonnegative": True}])
def test_without_a_positive_rating_there_is_no_preference_whatever_the_rank(params):
    # λ does not count for user 4, and 17 items do not span 25 columns.
    values = np.where(USERS == 4, -VALUES, VALUES)
    als = ALS(rank=25, maxIter=2, implicitPrefs=True, cgSteps=25, **params)
    X, Y = matrices(fit_without_spark(als, columns_of(USERS, ITEMS, values)))
    assert Y @ X[4] == pytest.approx(np.zeros(17), abs=2e-2)
    assert np.abs(Y @ X[5]).max() > 0.1
