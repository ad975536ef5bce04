"""The estimator and its model, as a user of pyspark.ml meets them."""

import logging
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from pyspark import SparkContext

from mfspark import ALS, ALSModel
from mfspark.errors import ConfigError, DataError, NumericalError, SchemaError
from mfspark.kernels.csr import build_in_block
from mfspark.kernels.initial import initial_factors
from mfspark.training.factor_tables import FactorTable
from tests import naive
from tests.asserts import assert_factors_close, assert_same_bytes, factors_by_id
from tests.builders import (
    TOY_ITEM_FACTORS,
    TOY_RATINGS,
    TOY_USER_FACTORS,
    low_rank_ratings,
    random_ratings,
    ratings_table,
)

pytestmark = pytest.mark.spark


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(*random_ratings(seed=5, n_users=31, n_items=17, n_ratings=200)))


def toy(spark):
    users, items, values = zip(*TOY_RATINGS, strict=True)
    return spark.createDataFrame(ratings_table(users, items, values))


def model_of(spark, user_factors, item_factors) -> ALSModel:
    """A model with given factors; ids count from 1."""
    tables = [
        spark.createDataFrame(
            pa.table(
                {
                    "id": np.arange(1, len(factors) + 1),
                    "features": pa.array(factors.tolist(), pa.list_(pa.float32())),
                }
            )
        )
        for factors in (user_factors, item_factors)
    ]
    return ALSModel(FactorTable.of(tables[0]), FactorTable.of(tables[1]), len(user_factors[0]))


def all_pairs(spark, n_users, n_items):
    users, items = np.mgrid[1 : n_users + 1, 1 : n_items + 1]
    return spark.createDataFrame(pa.table({"user": users.ravel(), "item": items.ravel()}))


def test_toy_model_predicts_all_nine_cells(spark):
    model = model_of(spark, TOY_USER_FACTORS, TOY_ITEM_FACTORS)
    predictions = model.transform(all_pairs(spark, 3, 3)).orderBy("user", "item").collect()
    expected = [2.00, 1.13, 0.77, 1.62, 0.93, 0.49, 0.74, 0.29, 1.45]
    assert [row["prediction"] for row in predictions] == pytest.approx(expected, abs=1e-6)


def test_trained_toy_model_fits_known_cells_and_predicts_the_others(spark):
    model = ALS(rank=2, maxIter=20, regParam=0.05, seed=2).fit(toy(spark))
    predictions = {
        (row["user"], row["item"]): row["prediction"] for row in model.transform(all_pairs(spark, 3, 3)).collect()
    }
    for user, item, rating in TOY_RATINGS:
        assert predictions[user, item] == pytest.approx(rating, abs=0.15)
    for pair in [(1, 3), (2, 2), (3, 1)]:
        assert 1 < predictions[pair] < 5


@pytest.mark.parametrize("blocks", [(1, 2), (3, 2), (5, 7), (33, 18)])
def test_factors_do_not_depend_on_block_count(ratings, blocks):
    one = ALS(rank=4, maxIter=4, numUserBlocks=1, numItemBlocks=1).fit(ratings)
    many = ALS(rank=4, maxIter=4, numUserBlocks=blocks[0], numItemBlocks=blocks[1]).fit(ratings)
    for side in ("userFactors", "itemFactors"):
        assert_factors_close(
            factors_by_id(getattr(many, side)), factors_by_id(getattr(one, side)), rtol=1e-5, atol=1e-6
        )


def test_same_seed_gives_the_same_bytes_in_any_order_and_partitioning(ratings):
    als = ALS(rank=4, maxIter=3, seed=11)
    first, second = als.fit(ratings), als.fit(ratings.orderBy("rating").repartition(5))
    assert_same_bytes(factors_by_id(first.userFactors), factors_by_id(second.userFactors))
    assert_same_bytes(factors_by_id(first.itemFactors), factors_by_id(second.itemFactors))


def test_another_seed_gives_other_factors(ratings):
    first, second = (ALS(rank=4, maxIter=1, seed=seed).fit(ratings) for seed in (1, 2))
    difference = np.array(
        [factors_by_id(first.userFactors)[user] - factors_by_id(second.userFactors)[user] for user in range(31)]
    )
    assert np.abs(difference).max() > 0.01


def test_objective_never_rises(ratings):
    history = ALS(rank=4, maxIter=8, regParam=0.05).fit(ratings).summary.objective_history
    assert len(history) == 8
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(history))


def blocks_of(ratings):
    """The ratings as one in-block of users and one of items; ids are indices."""
    users, items, values = (np.array(column) for column in zip(*ratings.collect(), strict=True))
    users, items, values = users.astype(np.int32), items.astype(np.int32), values.astype(np.float32)
    n_users, n_items = users.max() + 1, items.max() + 1
    return build_in_block(0, n_users, users, items, values), build_in_block(0, n_items, items, users, values)


def test_iterations_are_those_of_balanced_als(ratings):
    by_user, by_item = blocks_of(ratings)
    X, Y = initial_factors(10, range(by_user.n_rows), 3), initial_factors(11, range(by_item.n_rows), 3)
    X, Y, objectives = naive.balanced_als(by_user, by_item, X, Y, 0.05, 4)
    model = ALS(rank=3, maxIter=4, regParam=0.05, seed=5).fit(ratings)
    assert_factors_close(factors_by_id(model.userFactors), dict(enumerate(X)), rtol=1e-3, atol=1e-4)
    assert_factors_close(factors_by_id(model.itemFactors), dict(enumerate(Y)), rtol=1e-3, atol=1e-4)
    assert model.summary.objective_history == pytest.approx(objectives, rel=1e-4)


def test_as_many_cg_steps_as_the_rank_are_exact(ratings):
    exact, steps = (ALS(rank=3, maxIter=3, solver=solver).fit(ratings) for solver in ("cholesky", "cg"))
    for side in ("userFactors", "itemFactors"):
        assert_factors_close(
            factors_by_id(getattr(steps, side)), factors_by_id(getattr(exact, side)), rtol=1e-3, atol=1e-4
        )


def test_one_cg_step_goes_on_from_the_factors_before(ratings):
    exact, steps = (
        ALS(rank=4, maxIter=12, regParam=0.05, solver=solver, cgSteps=1).fit(ratings).summary.objective_history
        for solver in ("cholesky", "cg")
    )
    assert steps[0] > 1.02 * exact[0]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(steps))
    assert steps[-1] < 1.05 * exact[-1]


def test_history_holds_squared_error_and_penalty_of_the_factors(ratings):
    model = ALS(rank=3, maxIter=2, regParam=0.07).fit(ratings)
    X, Y = factors_by_id(model.userFactors), factors_by_id(model.itemFactors)
    rows = ratings.collect()
    squared_error = sum((row["rating"] - float(X[row["user"]] @ Y[row["item"]])) ** 2 for row in rows)
    penalty = 0.07 * sum(float(X[row["user"]] @ X[row["user"]] + Y[row["item"]] @ Y[row["item"]]) for row in rows)
    last = model.summary.history[-1]
    assert last.squared_error == pytest.approx(squared_error, rel=1e-5)
    assert last.penalty == pytest.approx(penalty, rel=1e-5)
    assert last.rmse == pytest.approx((squared_error / len(rows)) ** 0.5, rel=1e-5)


def test_a_rank_2_matrix_is_recovered(spark):
    matrix = low_rank_ratings(seed=4, n_users=30, n_items=20, rank=2)
    users, items = (index.ravel() for index in np.mgrid[0:30, 0:20])
    is_known = np.random.default_rng(0).random(len(users)) < 0.6
    known = ratings_table(users[is_known], items[is_known], matrix.ravel()[is_known])
    hidden = ratings_table(users[~is_known], items[~is_known], matrix.ravel()[~is_known])
    model = ALS(rank=2, maxIter=30, regParam=1e-6).fit(spark.createDataFrame(known))
    errors = [row["rating"] - row["prediction"] for row in model.transform(spark.createDataFrame(hidden)).collect()]
    assert np.abs(errors).max() < 0.01


@pytest.mark.parametrize(
    ("user_ids", "item_ids"),
    [
        (pa.array(["b", "a", "b"]), pa.array([2**40, 5, 5])),
        (pa.array([-3, 9, -3], pa.int8()), pa.array([1, 2, 2], pa.int16())),
        (pa.array([1, 2, 1], pa.decimal128(9, 2)), pa.array(["x", "y", "y"])),
    ],
)
def test_ids_come_back_in_their_own_type(spark, user_ids, item_ids):
    ratings = spark.createDataFrame(ratings_table(user_ids, item_ids, [4.0, 3.0, 5.0]))
    model = ALS(rank=2, maxIter=2).fit(ratings)
    for factors, column in ((model.userFactors, "user"), (model.itemFactors, "item")):
        assert factors.schema["id"].dataType == ratings.schema[column].dataType
        assert factors.schema["features"].dataType.simpleString() == "array<float>"
        expected_ids = sorted({row[0] for row in ratings.select(column).collect()})
        assert [row["id"] for row in factors.collect()] == expected_ids
    entry = model.recommendForAllUsers(1).schema["recommendations"].dataType.elementType
    assert entry["item"].dataType == ratings.schema["item"].dataType


def test_unknown_ids_get_nan_or_are_dropped(spark):
    model = ALS(rank=2, maxIter=1).fit(toy(spark))
    pairs = spark.createDataFrame([(1, 1), (1, 99), (99, 1), (99, 99)], "user long, item long")
    predictions = model.transform(pairs).orderBy("user", "item").collect()
    assert [np.isnan(row["prediction"]) for row in predictions] == [False, True, True, True]
    kept = model.copy({model.coldStartStrategy: "Drop"}).transform(pairs).collect()
    assert [(row["user"], row["item"]) for row in kept] == [(1, 1)]


def test_transform_is_safe_on_pairs_made_of_the_models_own_factors(spark):
    model = ALS(rank=2, maxIter=1).fit(toy(spark))
    users = model.userFactors.selectExpr("id as user")
    items = model.itemFactors.selectExpr("id as item")
    assert model.transform(users.crossJoin(items)).count() == 9


def test_an_existing_prediction_column_is_refused(spark):
    model = ALS(rank=2, maxIter=1).fit(toy(spark))
    with pytest.raises(SchemaError, match="column 'prediction' already exists"):
        model.transform(model.transform(toy(spark)))


@pytest.mark.parametrize(
    ("flag", "error", "message"),
    [("if(user = 1, null, false)", DataError, "2 null validation flags"), ("'no'", SchemaError, "must be boolean")],
)
def test_validation_flags_must_be_booleans_without_nulls(spark, flag, error, message):
    flagged = toy(spark).selectExpr("*", f"{flag} AS is_validation")
    with pytest.raises(error, match=message):
        ALS(validationIndicatorCol="is_validation").fit(flagged)


def test_a_failing_fit_leaves_nothing_cached(spark):
    # The fixture looks for what is still cached.
    failing = spark.range(1, 200).selectExpr(
        "id % 7 AS user", "id % 5 AS item", "if(id = 150, raise_error('broken row'), 1.0) AS rating"
    )
    with pytest.raises(Exception, match="broken row"):
        ALS(rank=2, maxIter=1).fit(failing)


def test_model_is_the_same_after_save_and_load(spark, tmp_path):
    model = ALS(rank=2, maxIter=2, userCol="u.ser", predictionCol="p").fit(
        toy(spark).withColumnRenamed("user", "u.ser")
    )
    path = str(tmp_path / "model")
    model.write().overwrite().save(path)
    model.write().overwrite().save(path)
    loaded = ALSModel.load(path)
    assert (loaded.uid, loaded.rank) == (model.uid, 2)
    assert loaded.extractParamMap().values()
    assert (loaded.getUserCol(), loaded.getPredictionCol()) == ("u.ser", "p")
    assert_same_bytes(factors_by_id(loaded.userFactors), factors_by_id(model.userFactors))
    assert_same_bytes(factors_by_id(loaded.itemFactors), factors_by_id(model.itemFactors))
    assert model.hasSummary
    assert not loaded.hasSummary


def test_a_stored_model_is_replaced_only_when_the_new_one_is_whole(spark, tmp_path):
    path = str(tmp_path / "model")
    model = ALS(rank=2, maxIter=1).fit(toy(spark))
    model.write().save(path)
    with_biases = ALS(rank=2, maxIter=1, biases=True).fit(toy(spark))
    with pytest.raises(ConfigError, match="no biases"):
        with_biases.write().overwrite().option("format", "spark").save(path)
    loaded = ALSModel.load(path)
    loaded.setPredictionCol("p").write().overwrite().save(path)  # what it has yet to read
    again = ALSModel.load(path)
    assert again.getPredictionCol() == "p"
    assert_same_bytes(factors_by_id(again.userFactors), factors_by_id(model.userFactors))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("spark")
def test_estimator_is_the_same_after_save_and_load(tmp_path):
    als = ALS(rank=7, maxIter=3, regParam=0.2, numUserBlocks=4, seed=9, tol=0.1, ratingCol="stars")
    als.write().overwrite().save(str(tmp_path / "als"))
    loaded = ALS.load(str(tmp_path / "als"))
    assert loaded.uid == als.uid
    assert {param.name: value for param, value in loaded.extractParamMap().items()} == {
        param.name: value for param, value in als.extractParamMap().items()
    }


def test_a_user_and_an_item_with_one_rating_are_trained(spark):
    ratings = spark.createDataFrame([(1, 1, 5.0)], "user int, item int, rating float")
    model = ALS(rank=3, maxIter=3, regParam=0.01).fit(ratings)
    assert model.transform(ratings).first()["prediction"] == pytest.approx(5.0, abs=0.1)


def test_no_iterations_give_the_initial_directions(ratings):
    model = ALS(rank=4, maxIter=0).fit(ratings)
    lengths = [np.linalg.norm(vector) for vector in factors_by_id(model.userFactors).values()]
    assert lengths == pytest.approx([1.0] * 31, rel=1e-5)
    assert model.summary.history == []


def test_training_stops_when_the_objective_hardly_falls(ratings):
    summary = ALS(rank=2, maxIter=50, tol=0.01).fit(ratings).summary
    assert summary.stop_reason == "tol"
    falls = [1 - after / before for before, after in pairwise(summary.objective_history)]
    assert falls[-1] < 0.01 <= min(falls[:-1], default=1)


def test_early_stop_keeps_the_factors_of_the_best_iteration(ratings):
    # Validation ratings of the wrong sign: the better the fit, the larger their error.
    flagged = ratings.selectExpr(
        "user", "item", "if((user + item) % 4 = 0, -rating, rating) AS rating", "(user + item) % 4 = 0 AS is_validation"
    )
    als = ALS(rank=4, maxIter=20, regParam=0.1, seed=1, validationIndicatorCol="is_validation")
    model = als.copy({als.patience: 3}).fit(flagged)
    errors = [record.validation_rmse for record in model.summary.history]
    assert model.summary.stop_reason == "patience"
    assert model.summary.best_iteration == int(np.argmin(errors)) + 1 == len(errors) - 3
    # Factors of the best iteration, not of the last: as if training had ended there.
    shorter = als.copy({als.maxIter: model.summary.best_iteration}).fit(flagged)
    assert_same_bytes(factors_by_id(model.userFactors), factors_by_id(shorter.userFactors))
    held_out = shorter.transform(flagged.where("is_validation")).where("not isnan(prediction)").collect()
    rmse = np.sqrt(np.mean([(row["rating"] - row["prediction"]) ** 2 for row in held_out]))
    assert min(errors) == pytest.approx(rmse, rel=1e-5)


def test_validation_ratings_are_not_trained_on(ratings):
    flagged = ratings.selectExpr("*", "(user + item) % 4 = 0 AS is_validation")
    als = ALS(rank=3, maxIter=2)
    with_flag = als.copy({als.validationIndicatorCol: "is_validation"}).fit(flagged)
    without = als.fit(flagged.where("not is_validation"))
    assert_same_bytes(factors_by_id(with_flag.userFactors), factors_by_id(without.userFactors))


def test_progress_is_logged_and_spark_jobs_are_named(spark, ratings, caplog):
    tracker = spark.sparkContext.statusTracker()
    spark.sparkContext.setJobGroup("progress", "before")
    with caplog.at_level(logging.INFO, "mfspark"):
        ALS(rank=2, maxIter=2, engine="rdd").fit(ratings)
    lines = [line for line in caplog.messages if line.startswith("iteration")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all("objective" in line and "left" in line for line in lines)
    assert len(tracker.getJobIdsForGroup("progress")) >= 4
    assert spark.sparkContext.getLocalProperty("spark.job.description") == "before"
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    spark.sparkContext.setLocalProperty("spark.job.description", None)


def test_every_broadcast_of_training_is_destroyed_but_those_of_the_model(ratings, monkeypatch):
    made = []
    original = SparkContext.broadcast

    def broadcast(context, value):
        made.append(original(context, value))
        return made[-1]

    monkeypatch.setattr(SparkContext, "broadcast", broadcast)
    ALS(rank=2, maxIter=2, engine="rdd").fit(ratings)
    assert len(made) == 7  # the layout of the blocks, each half-iteration, and the model's two tables
    assert [sent._jbroadcast.isValid() for sent in made] == [False] * 5 + [True] * 2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rank": 0}, "rank must be finite and at least 1, found 0"),
        ({"maxIter": -1}, "maxIter must be finite and at least 0, found -1"),
        ({"regParam": float("nan")}, "regParam must be finite and at least 0, found nan"),
        ({"numUserBlocks": -1}, "numUserBlocks must be finite and at least 0, found -1"),
        ({"cgSteps": 0}, "cgSteps must be finite and at least 1, found 0"),
        ({"solver": "qr"}, "solver must be one of 'cholesky', 'cg', 'subspace', found 'qr'"),
        ({"patience": 2}, "patience needs validation ratings; set validationIndicatorCol"),
        ({"intermediateStorageLevel": "NONE"}, "other than NONE, found 'NONE'"),
        ({"coldStartStrategy": "guess"}, "'nan', 'drop' or 'mean', found 'guess'"),
    ],
)
def test_parameters_out_of_range_are_refused(ratings, params, message):
    with pytest.raises(ConfigError, match=message):
        ALS(**params).fit(ratings)


@pytest.mark.parametrize(
    ("schema", "rows", "error", "message"),
    [
        ("user int, item int, rating float", [], DataError, "No ratings available"),
        ("user int, item int, rating float", [(1, None, 3.0), (1, 2, 3.0)], DataError, "1 null item ids"),
        ("user int, item int, rating float", [(1, 2, float("nan"))], DataError, "1 null, NaN or infinite ratings"),
        ("user int, item int, rating double", [(1, 2, 1e300)], DataError, "1 null, NaN or infinite ratings"),
        ("user int, item int, stars float", [(1, 2, 3.0)], SchemaError, "column 'rating' is missing"),
        ("user array<int>, item int, rating float", [([1], 2, 3.0)], SchemaError, "'user' must be a number, string"),
        ("user int, item int, rating string", [(1, 2, "3")], SchemaError, "'rating' must be numeric"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused(spark, schema, rows, error, message):
    with pytest.raises(error, match=message):
        ALS().fit(spark.createDataFrame(rows, schema))


def test_a_singular_system_names_the_row_and_the_remedy(spark):
    ratings = spark.createDataFrame(
        [("u", "i", 1.0), ("u", "j", 2.0), ("w", "j", 3.0)], "user string, item string, rating float"
    )
    with pytest.raises(
        NumericalError, match=r'item "i" has no unique solution \(rank 2, 1 ratings, regularization 0\); raise'
    ):
        ALS(rank=2, regParam=0).fit(ratings)
