"""Predictions of pairs, and what becomes of those that the model does not know."""

import numpy as np
import pyarrow as pa
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from mfspark import ALS, ALSModel
from mfspark.errors import ConfigError
from tests.builders import (
    TOY_ITEM_FACTORS,
    TOY_RATINGS,
    TOY_USER_FACTORS,
    model_of,
    random_ratings,
    ratings_table,
    small_model,
)

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=9, n_users=20, n_items=12, n_ratings=120)


@pytest.fixture(scope="module")
def models(spark_session):
    """Models of the same ratings without and with biases."""
    ratings = spark_session.createDataFrame(ratings_table(USERS, ITEMS, VALUES))
    return {biases: ALS(rank=2, maxIter=2, biases=biases).fit(ratings) for biases in (False, True)}


@pytest.fixture
def small(spark):
    return small_model(spark)


def test_toy_model_predicts_all_nine_cells(spark):
    factors = [dict(enumerate(rows.tolist(), start=1)) for rows in (TOY_USER_FACTORS, TOY_ITEM_FACTORS)]
    users, items = np.mgrid[1:4, 1:4]
    pairs = spark.createDataFrame(pa.table({"user": users.ravel(), "item": items.ravel()}))
    predictions = model_of(spark, *factors).transform(pairs).orderBy("user", "item").collect()
    expected = [2.00, 1.13, 0.77, 1.62, 0.93, 0.49, 0.74, 0.29, 1.45]
    assert [row["prediction"] for row in predictions] == pytest.approx(expected, abs=1e-6)


def test_unknown_ids_get_nan_or_are_dropped(spark):
    model = ALS(rank=2, maxIter=1).fit(spark.createDataFrame(TOY_RATINGS, "user long, item long, rating double"))
    pairs = spark.createDataFrame([(1, 1), (1, 99), (99, 1), (99, 99)], "user long, item long")
    predictions = model.transform(pairs).orderBy("user", "item").collect()
    assert [np.isnan(row["prediction"]) for row in predictions] == [False, True, True, True]
    kept = model.copy({model.coldStartStrategy: "Drop"}).transform(pairs).collect()
    assert [(row["user"], row["item"]) for row in kept] == [(1, 1)]


@pytest.mark.parametrize("strategy", ["nan", "NaN", "Nan", "drop", "DROP", "Drop", "mean", "Mean"])
@pytest.mark.parametrize("biases", [False, True])
def test_cold_start_strategies(spark, models, strategy, biases):
    model = models[biases].copy().setColdStartStrategy(strategy)
    pairs = spark.createDataFrame([(0, 0), (0, 500), (500, 0), (500, 500)], "user int, item int")
    found = {(row.user, row.item): row.prediction for row in model.transform(pairs).collect()}
    if strategy.lower() == "drop":
        assert list(found) == [(0, 0)]
        return
    assert len(found) == 4
    if strategy.lower() == "nan":
        assert {pair for pair, prediction in found.items() if np.isnan(prediction)} == {(0, 500), (500, 0), (500, 500)}
        return
    mean = VALUES.mean()
    of_user = model.userFactors.where("id = 0").first()["bias"] if biases else 0
    of_item = model.itemFactors.where("id = 0").first()["bias"] if biases else 0
    assert model.globalMean == pytest.approx(mean)
    assert found[0, 500] == pytest.approx(mean + of_user, rel=1e-5)
    assert found[500, 0] == pytest.approx(mean + of_item, rel=1e-5)
    assert found[500, 500] == pytest.approx(mean, rel=1e-5)


def test_pairs_may_be_made_of_the_models_own_tables(spark, models, tmp_path):
    models[False].save(f"{tmp_path}/model")
    key = "spark.sql.analyzer.failAmbiguousSelfJoin"
    before = spark.conf.get(key)
    try:
        for value in ("false", "true"):
            spark.conf.set(key, value)
            for model in (models[False], ALSModel().load(f"{tmp_path}/model")):
                users = model.userFactors.select(F.col("id").alias("user"))
                items = model.itemFactors.selectExpr("id AS item")
                assert model.transform(users.crossJoin(items)).count() == 20 * 12
    finally:
        spark.conf.set(key, before)


@pytest.mark.parametrize(
    ("schema", "pairs", "strategy"),
    [
        ("user int, item int", [(0, 3), (None, 3)], "nan"),
        ("user int, item bigint", [(0, 3), (0, None)], "mean"),
        ("user double, item int", [(0.0, 3), (float("nan"), 3)], "drop"),
        ("user string, item int", [("0", 3), (None, 3)], "drop"),
    ],
)
def test_null_and_nan_are_no_unknown_ids_but_errors(spark, small, schema, pairs, strategy):
    small._global_mean = 2.5
    small.setColdStartStrategy(strategy)
    with pytest.raises(PySparkException, match=r"column '(user|item)' has ids that are null or NaN; drop these rows"):
        small.transform(spark.createDataFrame(pairs, schema)).collect()
    good = spark.createDataFrame(pairs[:1], schema)
    assert [row.prediction for row in small.transform(good).collect()] == [4.0]


def test_a_string_named_nan_is_an_id(spark):
    ratings = spark.createDataFrame([("NaN", 0, 3.0), ("u1", 1, 2.0)], "user string, item int, rating float")
    predictions = ALS(rank=2, maxIter=1).fit(ratings).transform(ratings.where("user = 'NaN'"))
    assert predictions.count() == 1
    assert predictions.where(F.isnan("prediction")).count() == 0


def test_of_a_model_with_int_ids_wide_ones_and_fractions_are_unknown(spark, small):
    pairs = spark.createDataFrame([(0, 3.0), (2**32, 3.0), (0, 3.5)], "user bigint, item double")
    found = {(row.user, row.item): row.prediction for row in small.transform(pairs).collect()}
    assert found.pop((0, 3.0)) == 4.0
    assert [prediction != prediction for prediction in found.values()] == [True, True]


def test_columns_of_the_same_name_pass_through(spark, small):
    pairs = spark.createDataFrame([(0, 3, 7, 8)], "user int, item int, a int, b int").toDF("user", "item", "x", "x")
    scored = small.transform(pairs)
    assert scored.columns == ["user", "item", "x", "x", "prediction"]
    assert tuple(scored.first()) == (0, 3, 7, 8, 4.0)


def test_no_prediction_is_beyond_the_bounds(spark):
    model = model_of(spark, {1: [2], 2: [-2]}, {1: [1.5], 2: [4]})
    pairs = spark.createDataFrame([(1, 1), (1, 2), (2, 1), (7, 1)], "user int, item int")
    found = {(row.user, row.item): row.prediction for row in model.copy().setClip([1, 5]).transform(pairs).collect()}
    assert (found[1, 1], found[1, 2], found[2, 1]) == (3.0, 5.0, 1.0)
    assert np.isnan(found[7, 1])
    assert model.copy().setClip([1, 5]).setColdStartStrategy("drop").transform(pairs).count() == 3
    assert {row.prediction for row in model.transform(pairs.where("user < 3")).collect()} == {3.0, 8.0, -3.0}
    for bounds in ([5, 1], [1], [1, float("inf")], [1, float("nan")]):
        with pytest.raises(ConfigError, match="clip must be the least and the greatest rating, such as"):
            model.copy().setClip(bounds).transform(pairs)
    with pytest.raises(ConfigError, match="clip is for explicit ratings"):
        ALS(clip=[0, 1], implicitPrefs=True).fit(pairs)
