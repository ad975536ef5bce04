"""Every objective through the estimator, against the sum over the dense matrix that it stands for."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from mfspark import ALS, ALSModel
from mfspark.errors import ConfigError, DataError, NumericalError
from tests.asserts import assert_factors_close, factors_by_id
from tests.builders import random_ratings, ratings_table

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=5, n_users=31, n_items=17, n_ratings=200)
# Ratings of .5 to 5; centred, a third of them is negative.
SIGNED = VALUES - 2
R, SEEN = np.zeros((31, 17)), np.zeros((31, 17), bool)
R[USERS, ITEMS], SEEN[USERS, ITEMS] = SIGNED, True


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


@pytest.fixture
def feedback(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, SIGNED))


def matrix(table):
    """Factors in the order of their ids, biases behind them."""
    rows = table.orderBy("id").toArrow()
    factors = np.array(rows["features"].to_pylist(), np.float64)
    return np.column_stack([factors, rows["bias"].to_numpy()]) if "bias" in rows.column_names else factors


def matrices(model):
    return matrix(model.userFactors), matrix(model.itemFactors)


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
def test_implicit_history_is_the_objective_over_all_pairs(feedback, solver):
    model = ALS(rank=4, maxIter=5, regParam=0.07, implicitPrefs=True, alpha=3.0, solver=solver).fit(feedback)
    error, of_users, of_items = implicit_parts(model, alpha=3.0, offset=1.0)
    last = model.summary.history[-1]
    assert last.squared_error == pytest.approx(error, rel=1e-4)
    assert (last.user_penalty, last.item_penalty) == pytest.approx((0.07 * of_users, 0.07 * of_items), rel=1e-4)
    assert last.rmse is None
    assert objectives_fall(model)


def test_implicit_user_factors_solve_their_normal_equations(feedback):
    X, Y = matrices(ALS(rank=4, maxIter=3, regParam=0.07, implicitPrefs=True, alpha=3.0).fit(feedback))
    for user in range(31):
        confidence = np.where(SEEN[user], 1 + 3 * np.abs(R[user]), 1)
        A = Y.T @ (confidence[:, None] * Y) + 0.07 * (R[user] > 0).sum() * np.eye(4)
        np.testing.assert_allclose(A @ X[user], Y.T @ (confidence * (R[user] > 0)), rtol=1e-4, atol=1e-4)


def test_ials_counts_every_pair_and_scales_regularization_by_a_power(feedback):
    als = ALS(rank=4, maxIter=4, regParam=0.07, implicitPrefs=True, alpha=0.0, unobservedWeight=0.3, regScaling=0.5)
    model = als.fit(feedback)
    n_user, n_item = ((R > 0).sum(axis=axis) + 0.3 * n for axis, n in ((1, 17), (0, 31)))
    error, of_users, of_items = implicit_parts(model, 0.0, 1.0, 0.3, n_user**0.5, n_item**0.5)
    last = model.summary.history[-1]
    assert last.squared_error == pytest.approx(error, rel=1e-4)
    assert last.penalty == pytest.approx(0.07 * (of_users + of_items), rel=1e-4)
    assert objectives_fall(model)


def test_the_values_are_confidences_where_the_offset_is_zero(feedback):
    als = ALS(rank=4, maxIter=4, regParam=0.5, implicitPrefs=True, confidenceOffset=0.0, regScaling="none")
    model = als.fit(feedback)
    error, of_users, of_items = implicit_parts(model, 1.0, 0.0, None, np.ones(31), np.ones(17))
    assert model.summary.history[-1].squared_error == pytest.approx(error, rel=1e-4)
    assert model.summary.history[-1].penalty == pytest.approx(0.5 * (of_users + of_items), rel=1e-4)
    assert objectives_fall(model)


def test_implicit_factors_do_not_depend_on_block_count(feedback):
    als = ALS(rank=4, maxIter=3, implicitPrefs=True)
    one, many = (als.copy({als.numUserBlocks: n, als.numItemBlocks: n}).fit(feedback) for n in (1, 7))
    for side in ("userFactors", "itemFactors"):
        assert_factors_close(
            factors_by_id(getattr(many, side)), factors_by_id(getattr(one, side)), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("solver", ["cholesky", "cg", "subspace"])
def test_history_with_biases_is_the_objective_of_the_tables(ratings, solver):
    als = ALS(rank=3, maxIter=6, regParam=0.07, biases=True, biasRegParam=0.02, solver=solver)
    model = als.fit(ratings)
    X, Y = matrices(model)
    assert model.globalMean == pytest.approx(VALUES.mean(), rel=1e-6)
    predictions = VALUES.mean() + X[USERS, 3] + Y[ITEMS, 3] + (X[USERS, :3] * Y[ITEMS, :3]).sum(axis=1)
    last = model.summary.history[-1]
    assert last.squared_error == pytest.approx(((VALUES - predictions) ** 2).sum(), rel=1e-4)
    assert last.rmse == pytest.approx(((VALUES - predictions) ** 2).mean() ** 0.5, rel=1e-4)
    for sides, penalty in (((X, USERS), last.user_penalty), ((Y, ITEMS), last.item_penalty)):
        factors = sides[0][sides[1]]
        expected = 0.07 * (factors[:, :3] ** 2).sum() + 0.02 * (factors[:, 3] ** 2).sum()
        assert penalty == pytest.approx(expected, rel=1e-4)
    assert objectives_fall(model)


def test_biases_are_solved_with_the_factors(ratings):
    model = ALS(rank=3, maxIter=2, regParam=0.07, biases=True).fit(ratings)
    X, Y = matrices(model)
    for user in range(31):
        chosen = user == USERS
        sources = np.column_stack([Y[ITEMS[chosen], :3], np.ones(chosen.sum())])
        rest = VALUES[chosen] - VALUES.mean() - Y[ITEMS[chosen], 3]
        A = sources.T @ sources + 0.07 * chosen.sum() * np.eye(4)
        np.testing.assert_allclose(X[user], np.linalg.solve(A, sources.T @ rest), rtol=2e-4, atol=2e-5)


def test_predictions_and_recommendations_include_biases_and_survive_saving(ratings, tmp_path):
    fitted = ALS(rank=3, maxIter=3, biases=True).fit(ratings)
    fitted.write().save(str(tmp_path / "model"))
    X, Y = matrices(fitted)
    scores = VALUES.mean() + X[:, 3:] + Y[:, 3] + X[:, :3] @ Y[:, :3].T
    for model in (fitted, ALSModel.load(str(tmp_path / "model"))):
        predictions = model.transform(ratings).toArrow()
        found = dict(zip(zip(predictions["user"].to_pylist(), predictions["item"].to_pylist(), strict=True),
                         predictions["prediction"].to_pylist(), strict=True))  # fmt: skip
        for user, item in zip(USERS.tolist(), ITEMS.tolist(), strict=True):
            assert found[user, item] == pytest.approx(scores[user, item], abs=1e-5)
        best = {row["user"]: row["recommendations"] for row in model.recommendForAllUsers(4).collect()}
        for user in range(31):
            expected = np.sort(scores[user])[::-1][:4]
            assert [entry["rating"] for entry in best[user]] == pytest.approx(expected.tolist(), abs=1e-5)
        best = {row["item"]: row["recommendations"] for row in model.recommendForAllItems(2).collect()}
        assert [entry["rating"] for entry in best[3]] == pytest.approx(np.sort(scores[:, 3])[:-3:-1].tolist(), abs=1e-5)


@pytest.mark.parametrize("params", [{}, {"implicitPrefs": True, "alpha": 2.0}, {"biases": True}, {"nonnegative": True}])
def test_a_weight_of_two_is_the_rating_twice(ratings, params):
    weighted = ratings.withColumn("w", F.when(F.col("item") < 5, 2.0).otherwise(1.0))
    repeated = ratings.union(ratings.where("item < 5"))
    als = ALS(rank=3, maxIter=3, **params)
    with_weights, twice = als.copy().setWeightCol("w").fit(weighted), als.fit(repeated)
    for side in ("userFactors", "itemFactors"):
        found, expected = (factors_by_id(getattr(model, side)) for model in (with_weights, twice))
        assert_factors_close(found, expected, rtol=2e-3, atol=1e-4)
    found, expected = with_weights.summary.history[-1], twice.summary.history[-1]
    assert found.objective == pytest.approx(expected.objective, rel=1e-4)


def test_each_side_has_a_regularization_of_its_own(ratings):
    model = ALS(rank=3, maxIter=2, regParam=9.0, userRegParam=0.02, itemRegParam=0.3).fit(ratings)
    X, Y = matrices(model)
    last = model.summary.history[-1]
    assert last.user_penalty == pytest.approx(0.02 * (X[USERS] ** 2).sum(), rel=1e-4)
    assert last.item_penalty == pytest.approx(0.3 * (Y[ITEMS] ** 2).sum(), rel=1e-4)


@pytest.mark.parametrize("implicit", [False, True])
def test_nonnegative_factors_are_the_best_there_are(ratings, implicit):
    model = ALS(rank=4, maxIter=4, regParam=0.05, nonnegative=True, implicitPrefs=implicit).fit(ratings)
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


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alpha": -1.0}, "alpha must be finite and at least 0, found -1.0"),
        ({"confidenceOffset": float("nan")}, "confidenceOffset must be finite and at least 0, found nan"),
        ({"userRegParam": -0.1}, "userRegParam must be finite and at least 0, found -0.1"),
        ({"regScaling": "sqrt"}, "regScaling must be 'count', 'none' or a number of at least 0, found 'sqrt'"),
        ({"regScaling": -0.5}, "regScaling must be 'count', 'none' or a number of at least 0, found -0.5"),
        ({"biases": True, "implicitPrefs": True}, "biases do not work with implicitPrefs or nonnegative"),
        ({"biases": True, "nonnegative": True}, "biases do not work with implicitPrefs or nonnegative"),
        ({"nonnegative": True, "solver": "cg"}, "nonnegative needs solver 'cholesky', found 'cg'"),
        ({"implicitPrefs": True, "alpha": 0.0, "confidenceOffset": 0.0}, "alpha and confidenceOffset are both 0"),
        ({"unobservedWeight": 0.5}, "unobservedWeight works with implicit feedback only; set implicitPrefs"),
    ],
)
def test_settings_without_a_meaning_are_refused(ratings, params, message):
    with pytest.raises(ConfigError, match=message):
        ALS(**params).fit(ratings)


@pytest.mark.parametrize(
    ("params", "rating", "weight", "message"),
    [
        (
            {},
            1e38,
            None,
            r"equation of user \d+: .* too large.* ratings, .*; scale ratings and .* raise regParam or user",
        ),
        ({"solver": "cg"}, 1e38, None, "equation of (user|item) .* too large"),
        (
            {},
            5.0,
            3e38,
            "equation of item 0: .* too large.*; scale ratings and weights down, or raise regParam or item",
        ),
        ({"solver": "cg"}, 1e38, 1.0, "objective of iteration 1 is nan; expected a finite number; scale ratings"),
        (
            {"implicitPrefs": True, "alpha": 3e38},
            5.0,
            None,
            "equation of item 0: its numbers are .*; scale alpha, ratings and weights",
        ),
    ],
)
def test_numbers_beyond_float32_name_the_row_and_the_remedy(spark, params, rating, weight, message):
    table = ratings_table(USERS, ITEMS, np.r_[rating, VALUES[1:]])
    als = ALS(rank=3, maxIter=2, **params)
    if weight is not None:
        als.setWeightCol("w")
        table = table.append_column("w", pa.array(np.r_[weight, np.ones(len(VALUES) - 1)]))
    with pytest.raises(NumericalError, match=message):
        als.fit(spark.createDataFrame(table))


@pytest.mark.parametrize("params", [{}, {"solver": "cg"}, {"solver": "subspace"}, {"nonnegative": True}])
def test_ratings_of_zero_train_to_factors_of_zero(spark, params):
    model = ALS(rank=3, maxIter=3, **params).fit(spark.createDataFrame(ratings_table(USERS, ITEMS, 0 * VALUES)))
    assert max(np.abs(factors).max() for factors in matrices(model)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("params", [{}, {"solver": "cg"}, {"solver": "subspace"}, {"nonnegative": True}])
def test_without_a_positive_rating_there_is_no_preference_whatever_the_rank(spark, params):
    # λ does not count for user 4, and 17 items do not span 25 columns.
    values = np.where(USERS == 4, -VALUES, VALUES)
    als = ALS(rank=25, maxIter=2, implicitPrefs=True, cgSteps=25, **params)
    X, Y = matrices(als.fit(spark.createDataFrame(ratings_table(USERS, ITEMS, values))))
    assert Y @ X[4] == pytest.approx(np.zeros(17), abs=2e-2)
    assert np.abs(Y @ X[5]).max() > 0.1


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), None])
def test_weights_that_are_not_positive_are_refused(spark, weight):
    weights = [1.0] * (len(USERS) - 1) + [weight]
    table = ratings_table(USERS, ITEMS, VALUES).append_column("w", pa.array(weights, pa.float64()))
    with pytest.raises(DataError, match="1 null, NaN, infinite or non-positive weights"):
        ALS(weightCol="w").fit(spark.createDataFrame(table))
