"""SGD: strata and learning rates alone, and epochs through the estimator."""

from itertools import pairwise

import numpy as np
import pytest
from pyspark.sql import functions as F

from mfspark import SGD, SGDModel
from mfspark.errors import ConfigError, NumericalError
from mfspark.training import sgd as solver
from mfspark.training.loop import IterationRecord
from mfspark.training.objective import Explicit, Regularization
from mfspark.training.sgd import StochasticGradientDescent, strata
from tests.asserts import assert_same_bytes, factors_by_id
from tests.builders import TOY_RATINGS, random_ratings, ratings_table

USERS, ITEMS, VALUES = random_ratings(seed=5, n_users=31, n_items=17, n_ratings=200)


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


def test_toy_matrix_is_trained(spark):
    toy = spark.createDataFrame(TOY_RATINGS, "user long, item long, rating double")
    model = SGD(rank=2, maxIter=100, regParam=0.02, learningRate=0.15, decay=0.01, numBlocks=2, seed=1).fit(toy)
    predictions = model.transform(toy).collect()
    assert [row["prediction"] for row in predictions] == pytest.approx([row["rating"] for row in predictions], abs=0.2)


@pytest.mark.parametrize("schedule", ["constant", "inverse", "bold", "adagrad"])
def test_history_is_the_objective_of_the_tables(ratings, schedule):
    settings = {"userRegParam": 0.07, "itemRegParam": 0.05, "biasRegParam": 0.02, "numBlocks": 3}
    model = SGD(rank=3, maxIter=3, biases=True, schedule=schedule, **settings).fit(ratings)
    assert isinstance(model, SGDModel)
    sides = []
    for table in (model.userFactors, model.itemFactors):
        rows = table.orderBy("id").toArrow()
        sides.append((np.array(rows["features"].to_pylist(), float), rows["bias"].to_numpy().astype(float)))
    (X, b_user), (Y, b_item) = sides
    predictions = VALUES.mean() + b_user[USERS] + b_item[ITEMS] + (X[USERS] * Y[ITEMS]).sum(axis=1)
    last = model.summary.history[-1]
    assert last.squared_error == pytest.approx(((VALUES - predictions) ** 2).sum(), rel=1e-4)
    assert last.user_penalty == pytest.approx(
        0.07 * (X[USERS] ** 2).sum() + 0.02 * (b_user[USERS] ** 2).sum(), rel=1e-4
    )
    assert last.item_penalty == pytest.approx(
        0.05 * (Y[ITEMS] ** 2).sum() + 0.02 * (b_item[ITEMS] ** 2).sum(), rel=1e-4
    )
    assert all(after < before for before, after in pairwise(model.summary.objective_history))


def test_result_does_not_depend_on_partitions_or_the_order_of_rows(ratings):
    sgd = SGD(rank=3, maxIter=2, numBlocks=3, seed=7)
    first, second = sgd.fit(ratings), sgd.fit(ratings.orderBy("rating").repartition(5))
    assert_same_bytes(factors_by_id(first.userFactors), factors_by_id(second.userFactors))
    assert_same_bytes(factors_by_id(first.itemFactors), factors_by_id(second.itemFactors))


def test_cells_of_a_stratum_may_descend_in_any_order_or_at_once(ratings, monkeypatch):
    sgd = SGD(rank=3, maxIter=2, numBlocks=3, schedule="adagrad", biases=True)
    at_once, strata = sgd.fit(ratings), solver.strata
    monkeypatch.setattr(
        solver, "strata", lambda *which: [[cell] for stratum in strata(*which) for cell in reversed(stratum)]
    )
    one_by_one = sgd.fit(ratings)
    assert_same_bytes(factors_by_id(one_by_one.userFactors), factors_by_id(at_once.userFactors))
    assert_same_bytes(factors_by_id(one_by_one.itemFactors), factors_by_id(at_once.itemFactors))


def test_early_stop_keeps_the_factors_of_the_best_epoch(ratings):
    # Validation ratings of the wrong sign: the better the fit, the larger their error.
    flagged = ratings.selectExpr(
        "user", "item", "if((user + item) % 4 = 0, -rating, rating) AS rating", "(user + item) % 4 = 0 AS held"
    )
    sgd = SGD(rank=3, maxIter=20, numBlocks=2, seed=1, validationIndicatorCol="held")
    model = sgd.copy({sgd.patience: 2}).fit(flagged)
    summary = model.summary
    errors = [record.validation_rmse for record in summary.history]
    assert summary.stop_reason == "patience"
    assert summary.best_iteration == int(np.argmin(errors)) + 1 == len(errors) - 2
    shorter = sgd.copy({sgd.maxIter: summary.best_iteration}).fit(flagged)
    assert_same_bytes(factors_by_id(model.userFactors), factors_by_id(shorter.userFactors))


def test_validation_ratings_are_judged_and_not_trained_on(ratings):
    marked = ratings.withColumn("held", F.col("rating") == 0.5)
    model = SGD(rank=3, maxIter=2, numBlocks=2, validationIndicatorCol="held").fit(marked)
    held = model.transform(marked.where("held")).collect()
    errors = np.array([row["prediction"] - row["rating"] for row in held])
    assert model.summary.history[-1].validation_rmse == pytest.approx((errors**2).mean() ** 0.5, rel=1e-4)
    without = SGD(rank=3, maxIter=2, numBlocks=2).fit(marked.where("not held"))
    assert without.summary.history[-1].rmse == pytest.approx(model.summary.history[-1].rmse, rel=0.05)


def test_weights_scale_the_steps(ratings):
    weighted = ratings.withColumn("w", F.lit(0.5))
    half = SGD(rank=3, maxIter=2, numBlocks=2, weightCol="w").fit(weighted)
    slower = SGD(rank=3, maxIter=2, numBlocks=2, learningRate=0.01).fit(ratings)
    assert half.summary.history[-1].rmse == pytest.approx(slower.summary.history[-1].rmse, rel=1e-5)
    assert half.summary.history[-1].objective == pytest.approx(slower.summary.history[-1].objective / 2, rel=1e-5)


@pytest.mark.parametrize(("schedule", "rate"), [("constant", 2.0), ("adagrad", 1e3)])
def test_divergence_is_seen_and_said_at_once(ratings, schedule, rate):
    # The first one ends in NaN, the other in large numbers.
    with pytest.raises(NumericalError, match=r"diverged in epoch 1 .*lower learningRate"):
        SGD(rank=3, maxIter=1, schedule=schedule, learningRate=rate, numBlocks=2).fit(ratings)


def test_model_is_saved_and_loaded(ratings, tmp_path):
    model = SGD(rank=3, maxIter=1, biases=True).fit(ratings)
    model.write().save(str(tmp_path / "model"))
    loaded = SGDModel.load(str(tmp_path / "model"))
    assert isinstance(loaded, SGDModel)
    assert loaded.globalMean == model.globalMean
    assert_same_bytes(factors_by_id(loaded.userFactors), factors_by_id(model.userFactors))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"learningRate": 0.0}, "learningRate must be above 0"),
        ({"decay": -1.0}, "decay must be finite and at least 0, found -1.0"),
        ({"schedule": "cosine"}, "schedule must be one of 'constant', 'inverse', 'bold', 'adagrad', found 'cosine'"),
        ({"numBlocks": 0}, "numBlocks must be finite and at least 1, found 0"),
    ],
)
def test_parameters_out_of_range_are_refused(ratings, params, message):
    with pytest.raises(ConfigError, match=message):
        SGD(**params).fit(ratings)


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
