"""Folding in: factors of people and things that training never saw."""

import numpy as np
import pyarrow as pa
import pytest

from mfspark import ALS, SGD, ALSModel
from mfspark.errors import DataError, NumericalError, SchemaError
from mfspark.training.factor_tables import FactorTable
from tests.asserts import assert_factors_close, assert_same_bytes, factors_by_id
from tests.builders import random_ratings, ratings_table

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=6, n_users=25, n_items=14, n_ratings=170)
# Of users 100 and 101; nobody has rated item 99.
NEW = {"user": [100, 100, 100, 101, 101], "item": [0, 3, 7, 3, 99], "rating": [4.0, 2.0, 5.0, 1.0, 3.0]}


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


@pytest.fixture(scope="module")
def model(spark_session):
    return ALS(rank=3, maxIter=1).fit(spark_session.createDataFrame(ratings_table(USERS, ITEMS, VALUES)))


@pytest.fixture
def new(spark):
    return spark.createDataFrame(pa.table(NEW))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"biases": True, "biasRegParam": 0.3},
        {"implicitPrefs": True, "alpha": 2.0},
        {"implicitPrefs": True, "unobservedWeight": 0.2, "regScaling": 0.5},
        {"nonnegative": True},
        {"solver": "cg", "cgSteps": 6},
        {"userRegParam": 0.4, "weightCol": "rating"},
    ],
)
def test_folding_in_the_training_ratings_gives_the_user_factors_back(ratings, settings):
    # Users are solved last: theirs are the exact answer to the item factors. Six steps are exact at rank 4.
    model = ALS(rank=4, maxIter=3, **settings).fit(ratings)
    folded = model.foldInUsers(ratings)
    assert_factors_close(factors_by_id(folded.userFactors), factors_by_id(model.userFactors), rtol=1e-4, atol=1e-5)
    if settings.get("biases"):
        biases = [{row.id: row.bias for row in m.userFactors.collect()} for m in (folded, model)]
        assert biases[0] == pytest.approx(biases[1], rel=1e-4, abs=1e-5)
    assert folded.globalMean == model.globalMean
    assert folded.itemFactors.collect() == model.itemFactors.collect()


@pytest.mark.parametrize(
    "settings", [{"biases": True}, {"implicitPrefs": True, "unobservedWeight": 0.2, "regScaling": 0.5}]
)
def test_folding_in_beside_a_large_table_collects_the_rows_that_are_needed(ratings, new, settings, monkeypatch):
    model = ALS(rank=4, maxIter=2, **settings).fit(ratings)
    expected = model.foldInUsers(new)
    collected, original = [], FactorTable.collect
    monkeypatch.setattr(FactorTable, "collect", lambda table: collected.append(original(table)) or collected[-1])
    monkeypatch.setattr("mfspark.engine.choice.MAX_LOCAL_ROWS", -1)
    tables = [FactorTable.of(table.repartition(3)) for table in (model.userFactors, model.itemFactors)]
    found = ALSModel(*tables, 4, model.globalMean, None, model._trained_by).foldInUsers(new)
    assert [ids.to_pylist() for ids, _factors in collected] == [[0, 3, 7]]
    assert_factors_close(factors_by_id(found.userFactors), factors_by_id(expected.userFactors), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", [ALS, SGD])
def test_new_people_get_the_least_squares_solution_of_their_ratings(ratings, new, estimator):
    model = estimator(rank=4, maxIter=3, regParam=0.2, biases=True, biasRegParam=0.3).fit(ratings)
    items = {row.id: (np.array(row.features), row.bias) for row in model.itemFactors.collect()}
    folded = {row.id: row for row in model.foldInUsers(new).userFactors.collect()}
    assert list(folded) == [100, 101]
    for user, row in folded.items():
        rated = [(i, r) for u, i, r in zip(*NEW.values(), strict=True) if u == user and i in items]
        Y = np.array([[*items[i][0], 1.0] for i, _ in rated])
        r = np.array([r - items[i][1] - model.globalMean for i, r in rated])
        solution = np.linalg.solve(Y.T @ Y + len(rated) * np.diag([0.2] * 4 + [0.3]), Y.T @ r)
        np.testing.assert_allclose([*row.features, row.bias], solution, rtol=1e-4, atol=1e-5)


def test_new_things_get_the_least_squares_solution_too(spark, ratings):
    model = ALS(rank=4, maxIter=3, regParam=0.2, itemRegParam=0.5).fit(ratings)
    users = factors_by_id(model.userFactors)
    folded = model.foldInItems(
        spark.createDataFrame(pa.table({"user": [0, 4, 9], "item": ["new"] * 3, "rating": [5.0, 3.0, 1.0]}))
    )
    X = np.array([users[user] for user in (0, 4, 9)])
    solution = np.linalg.solve(X.T @ X + 3 * 0.5 * np.eye(4), X.T @ [5.0, 3.0, 1.0])
    np.testing.assert_allclose(factors_by_id(folded.itemFactors)["new"], solution, rtol=1e-4)
    assert factors_by_id(folded.userFactors).keys() == users.keys()


def test_a_model_of_new_people_predicts_and_recommends(spark, ratings, new):
    folded = ALS(rank=4, maxIter=3, biases=True).fit(ratings).foldInUsers(new)
    lists = {row.user: row.recommendations for row in folded.recommendForAllUsers(20, seen=new).collect()}
    assert sorted(lists) == [100, 101]
    assert {entry.item for entry in lists[100]} == set(ITEMS) - {0, 3, 7}
    pairs = spark.createDataFrame(
        [(100, entry.item, entry.rating) for entry in lists[100]], "user long, item long, r float"
    )
    for row in folded.transform(pairs).collect():
        assert row.prediction == pytest.approx(row.r, rel=1e-5)
    assert not folded.hasSummary


@pytest.mark.parametrize("settings", [{"biases": True}, {"implicitPrefs": True, "alpha": 2.0}, {"nonnegative": True}])
def test_a_stored_model_folds_in_as_before(ratings, new, tmp_path, settings):
    renamed = ratings.withColumnRenamed("rating", "stars").selectExpr("*", "1 + item % 2 AS trust")
    model = ALS(rank=3, maxIter=2, ratingCol="stars", weightCol="trust", **settings).fit(renamed)
    model.save(str(tmp_path / "model"))
    loaded = ALSModel.load(str(tmp_path / "model"))
    people = new.selectExpr("user", "item", "rating AS stars", "2.0 AS trust")
    assert loaded.foldInUsers(people).userFactors.collect() == model.foldInUsers(people).userFactors.collect()
    with pytest.raises(SchemaError, match="column 'trust' is missing"):
        loaded.foldInUsers(people.drop("trust"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(100, 3, float("nan"))], "1 null, NaN or infinite ratings"),
        ([(None, 3, 1.0), (100, 3, 1.0)], "1 null user ids"),
        ([(100, 99, 1.0)], "no rating has a known item"),
        ([], "no rating has a known item"),
    ],
)
def test_ratings_that_cannot_be_folded_in_are_refused(spark, model, rows, message):
    with pytest.raises(DataError, match=message):
        model.foldInUsers(spark.createDataFrame(rows, "user long, item long, rating double"))


def test_a_row_without_a_unique_solution_is_named(ratings, new):
    busy = [user for user, n in enumerate(np.bincount(USERS)) if n > 5]
    model = ALS(rank=4, maxIter=1, userRegParam=0.0, itemRegParam=0.1).fit(ratings.where(ratings["user"].isin(busy)))
    with pytest.raises(NumericalError, match=r"user 10[01] has no unique solution \(rank 4\)"):
        model.foldInUsers(new)


def test_factors_that_overflow_are_named(spark, ratings):
    model = ALS(rank=4, maxIter=1, userRegParam=0.0, itemRegParam=5.0).fit(ratings)
    many = [(100, item, 3e38 * (-1) ** item) for item in range(14)]
    with pytest.raises(NumericalError, match="factors of user 100 overflowed float32; scale its ratings down"):
        model.foldInUsers(spark.createDataFrame(many, "user long, item long, rating float"))


def test_ratings_of_items_that_the_model_cannot_know_are_ignored(ratings):
    model = ALS(rank=2, maxIter=2).fit(ratings)
    new = ratings.where("user < 5").selectExpr("user", "cast(item AS double) AS item", "rating")
    others = new.selectExpr("user", "item + 0.5", "rating").union(new.selectExpr("user", "item + 1e10", "rating"))
    expected, found = (model.foldInUsers(table).userFactors for table in (new, new.union(others)))
    assert_same_bytes(factors_by_id(found), factors_by_id(expected))
    with pytest.raises(DataError, match="1 null item ids"):
        model.foldInUsers(new.union(new.selectExpr("0", "null", "1.0").limit(1)))
