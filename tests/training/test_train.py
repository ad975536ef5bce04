"""Training from the start or from an earlier model."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from mfspark import ALS, SGD, ALSModel
from mfspark.errors import ConfigError, SchemaError
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.objective import Implicit, Regularization
from mfspark.training.train import _compile
from tests.asserts import assert_same_bytes, factors_by_id
from tests.builders import random_ratings, ratings_table

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=12, n_users=30, n_items=15, n_ratings=200)


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"biases": True},
        {"implicitPrefs": True, "alpha": 2.0},
        {"implicitPrefs": True, "unobservedWeight": 0.3, "regScaling": 0.7},
        {"solver": "cg", "cgSteps": 2},
        {"solver": "subspace"},
        {"nonnegative": True},
        {"weightCol": "rating", "userRegParam": 0.3},
    ],
)
@pytest.mark.parametrize("is_stored", [False, True])
def test_interrupted_training_ends_with_the_same_bytes(ratings, tmp_path, settings, is_stored):
    whole = ALS(rank=5, maxIter=4, **settings).fit(ratings)
    half = ALS(rank=5, maxIter=2, **settings).fit(ratings)
    if is_stored:
        half.save(str(tmp_path / "model"))
        half = ALSModel.load(str(tmp_path / "model"))
    resumed = ALS(rank=5, maxIter=2, initialModel=half, **settings).fit(ratings)
    for table in ("userFactors", "itemFactors"):
        found, expected = (factors_by_id(getattr(model, table)) for model in (resumed, whole))
        assert_same_bytes(found, expected)
    assert resumed.summary.objective_history == whole.summary.objective_history[2:]


@pytest.mark.parametrize("biases", [False, True])
def test_ids_come_and_go(spark, ratings, biases):
    settings = {"rank": 3, "biases": biases, "regParam": 0.3}
    model = ALS(maxIter=10, **settings).fit(ratings.where("user < 25 AND item < 13"))
    later = ratings.where("user >= 5 AND item >= 2")
    resumed = ALS(maxIter=1, initialModel=model, **settings).fit(later)
    assert {row.id for row in resumed.userFactors.collect()} == {row.user for row in later.collect()}
    assert {row.id for row in resumed.itemFactors.collect()} == {row.item for row in later.collect()}
    cold = ALS(maxIter=1, **settings).fit(later).summary.objective_history
    converged = ALS(maxIter=30, **settings).fit(later).summary.objective_history[-1]
    assert converged <= resumed.summary.objective_history[0] < cold[0]
    assert resumed.summary.objective_history[0] < 1.1 * converged
    everyone_new = spark.createDataFrame(ratings_table(USERS + 1000, ITEMS, VALUES))
    again = ALS(maxIter=1, initialModel=model, **settings).fit(everyone_new.where("item < 13"))
    assert again.userFactors.where("id < 1000").count() == 0


def test_an_initial_model_that_does_not_fit_is_refused(ratings):
    model = ALS(rank=3, maxIter=1).fit(ratings)
    with pytest.raises(ConfigError, match="rank must match the initial model: expected 3, found 4"):
        ALS(rank=4, initialModel=model).fit(ratings)
    with pytest.raises(ConfigError, match="biases must match the initial model: expected False, found True"):
        ALS(rank=3, biases=True).setInitialModel(model).fit(ratings)
    with pytest.raises(SchemaError, match="the initial model has int32 ids, the ratings have large_string ids"):
        ALS(rank=3, initialModel=model).fit(ratings.withColumn("user", ratings["user"].cast("string")))


def test_copies_keep_the_initial_model(ratings):
    model = ALS(rank=3, maxIter=3).fit(ratings)
    als = ALS(rank=3, maxIter=1, initialModel=model)
    first = als.fit(ratings, {als.regParam: 0.1}).summary.objective_history[0]
    assert first < model.summary.objective_history[-1]


def test_kernels_are_compiled_for_settings_that_overflow():
    regularization = Regularization(user=0.1, item=0.1, bias=0.1)
    algorithm = AlternatingLeastSquares(2, regularization, Implicit(alpha=1.0, all_pairs_weight=1e300))
    with pytest.raises(RuntimeWarning):  # of the made-up numbers that kernels are compiled with
        algorithm.compile()
    _compile(algorithm)


def test_sgd_starts_from_the_factors_of_a_model(ratings):
    settings = {"rank": 3, "seed": 1, "numBlocks": 2, "schedule": "constant"}
    first = SGD(maxIter=5, **settings).fit(ratings)
    objectives = SGD(maxIter=1, initialModel=first, **settings).fit(ratings).summary.objective_history
    assert (
        objectives[0]
        < first.summary.objective_history[-1]
        < SGD(maxIter=1, **settings).fit(ratings).summary.objective_history[0]
    )
    unchanged = SGD(maxIter=0, initialModel=first, **settings).fit(ratings)
    assert_same_bytes(factors_by_id(unchanged.userFactors), factors_by_id(first.userFactors))


def test_ids_that_are_new_to_sgd_start_from_random_factors(ratings):
    settings = {"rank": 3, "seed": 1, "numBlocks": 2}
    first = SGD(maxIter=2, **settings).fit(ratings.where("user != 4 AND item != 2"))
    known, started = first.userFactors, SGD(maxIter=0, initialModel=first, **settings).fit(ratings)
    found, before = factors_by_id(started.userFactors), factors_by_id(known)
    assert np.linalg.norm(found.pop(4)) == pytest.approx(1, rel=1e-6)
    assert_same_bytes(found, before)


MODELS = {
    "explicit": (ALS, {}),
    "conjugate gradients": (ALS, {"solver": "cg"}),
    "subspaces": (ALS, {"solver": "subspace", "rank": 20}),
    "nonnegative": (ALS, {"nonnegative": True}),
    "biases and weights": (ALS, {"biases": True, "weightCol": "weight"}),
    "implicit": (ALS, {"implicitPrefs": True, "alpha": 3.0}),
    "iALS": (ALS, {"implicitPrefs": True, "alpha": 0.0, "unobservedWeight": 0.3, "regScaling": 0.5}),
    "sgd": (SGD, {"numBlocks": 3}),
    "sgd with biases, weights and adagrad": (
        SGD, {"numBlocks": 3, "schedule": "adagrad", "biases": True, "weightCol": "weight"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_both_engines_give_the_same_bytes(spark, name):
    algorithm, settings = MODELS[name]
    table = ratings_table(USERS, ITEMS, VALUES).append_column("weight", [VALUES + 1])
    judged = np.arange(len(USERS)) % 5 == 0
    flagged = spark.createDataFrame(table.append_column("judged", [judged.tolist()])).repartition(3)
    estimator = algorithm(**{"rank": 4, "maxIter": 3, "seed": 7, "validationIndicatorCol": "judged", **settings})
    models = [estimator.copy().setEngine(engine).fit(flagged) for engine in ("local", "rdd")]
    assert [model.summary.engine for model in models] == ["local", "rdd"]
    for side in ("userFactors", "itemFactors"):
        tables = [getattr(model, side) for model in models]
        assert tables[0].schema == tables[1].schema
        assert_same_bytes(*map(factors_by_id, tables))
    local, rdd = ([replace(record, seconds=0) for record in model.summary.history] for model in models)
    assert local == rdd
    assert local[-1].validation_rmse > 0


@pytest.mark.parametrize("engine", ["local", "rdd"])
def test_both_engines_recommend_the_same(ratings, engine):
    model = ALS(rank=3, maxIter=2, engine=engine, numUserBlocks=2, numItemBlocks=2).fit(ratings)
    lists = {row["user"]: [tuple(entry) for entry in row["recommendations"]] for row in
             model.recommendForAllUsers(4, seen=ratings).collect()}  # fmt: skip
    X, Y = (np.array([row["features"] for row in table.orderBy("id").collect()]) for table in
            (model.userFactors, model.itemFactors))  # fmt: skip
    for user in range(30):
        seen = set(ITEMS[user == USERS].tolist())
        best = sorted((-float(X[user] @ Y[item]), item) for item in range(15) if item not in seen)[:4]
        assert [item for item, _ in lists[user]] == [item for _, item in best]
        assert [score for _, score in lists[user]] == pytest.approx([-score for score, _ in best], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("limits", "engine"), [({}, "local"), ({"MAX_LOCAL_FACTOR_BYTES": 4 * 3 * 29}, "rdd")])
def test_small_ratings_and_factors_train_on_the_driver(ratings, monkeypatch, caplog, limits, engine):
    for name, value in limits.items():  # 30 users at rank 3 are one too many
        monkeypatch.setattr(f"mfspark.blocks.prepare.{name}", value)
    with caplog.at_level(logging.INFO, logger="mfspark"):
        model = ALS(rank=3, maxIter=1).fit(ratings)
    assert model.summary.engine == engine
    assert [line for line in caplog.messages if f"(engine {engine})" in line]


def test_many_ratings_train_on_the_executors(ratings, monkeypatch):
    monkeypatch.setattr("mfspark.engine.choice.MAX_LOCAL_ROWS", 199)
    assert ALS(rank=2, maxIter=1).fit(ratings).summary.engine == "rdd"
