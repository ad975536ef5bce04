"""Training from the start or from an earlier model, on either engine."""

import logging
from dataclasses import replace
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
from pyspark.sql import functions as F

from mfspark import ALS, SGD
from mfspark.blocks.index import IdIndex
from mfspark.engine.connect import ConnectEngine
from mfspark.engine.rdd import RddEngine
from mfspark.errors import NumericalError, SchemaError
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.objective import Implicit, Regularization
from mfspark.training.sgd import StochasticGradientDescent
from mfspark.training.train import _compile
from tests.asserts import assert_factors_close, assert_same_bytes, factors_by_id
from tests.builders import random_ratings, ratings_table, skewed_ratings
from tests.conftest import BOTH_WIDE, NONE_WIDE, USERS_WIDE, WIDE_RANK
from tests.local import columns_of, fit_without_spark

USERS, ITEMS, VALUES = random_ratings(seed=12, n_users=30, n_items=15, n_ratings=200)
RATINGS = columns_of(USERS, ITEMS, VALUES)


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
        {"weightCol": "weight", "userRegParam": 0.3},
    ],
)
def test_training_in_two_halves_ends_with_the_same_bytes(settings):
    ratings = columns_of(USERS, ITEMS, VALUES, **({"weight": VALUES} if "weightCol" in settings else {}))
    whole, half = (fit_without_spark(ALS(rank=5, maxIter=n, **settings), ratings) for n in (4, 2))
    resumed = fit_without_spark(ALS(rank=5, maxIter=2, **settings), ratings, initial=half)
    assert resumed.ids == whole.ids
    assert (resumed.X.tobytes(), resumed.Y.tobytes()) == (whole.X.tobytes(), whole.Y.tobytes())
    assert resumed.summary.objective_history == whole.summary.objective_history[2:]


@pytest.mark.parametrize("biases", [False, True])
def test_ids_come_and_go(biases):
    settings = {"rank": 3, "biases": biases, "regParam": 0.3}
    model = fit_without_spark(ALS(maxIter=10, **settings), RATINGS.filter((USERS < 25) & (ITEMS < 13)))
    are_later = (USERS >= 5) & (ITEMS >= 2)
    later = RATINGS.filter(are_later)
    resumed = fit_without_spark(ALS(maxIter=1, **settings), later, initial=model)
    assert resumed.ids == (np.unique(USERS[are_later]).tolist(), np.unique(ITEMS[are_later]).tolist())
    cold = fit_without_spark(ALS(maxIter=1, **settings), later).summary.objective_history
    converged = fit_without_spark(ALS(maxIter=30, **settings), later).summary.objective_history[-1]
    assert converged <= resumed.summary.objective_history[0] < cold[0]
    assert resumed.summary.objective_history[0] < 1.1 * converged
    everyone_new = columns_of(USERS + 1000, ITEMS, VALUES).filter(ITEMS < 13)
    again = fit_without_spark(ALS(maxIter=1, **settings), everyone_new, initial=model)
    assert min(again.ids[0]) >= 1000


def test_ids_of_another_type_than_the_initial_models_are_refused():
    model = fit_without_spark(ALS(rank=3, maxIter=1), RATINGS)
    named = columns_of(USERS.astype(str).tolist(), ITEMS, VALUES)
    with pytest.raises(SchemaError, match="the initial model has int32 ids, the ratings have string ids; cast"):
        fit_without_spark(ALS(rank=3), named, initial=model)


def test_kernels_are_compiled_for_settings_that_overflow():
    regularization = Regularization(user=0.1, item=0.1, bias=0.1)
    algorithm = AlternatingLeastSquares(2, regularization, Implicit(alpha=1.0, all_pairs_weight=1e300))
    with pytest.raises(RuntimeWarning):  # of the made-up numbers that kernels are compiled with
        algorithm.compile()
    _compile(algorithm)


def test_sgd_starts_from_the_factors_of_a_model():
    settings = {"rank": 3, "seed": 1, "numBlocks": 2, "schedule": "constant"}
    first, one = (fit_without_spark(SGD(maxIter=n, **settings), RATINGS) for n in (5, 1))
    again, unchanged = (fit_without_spark(SGD(maxIter=n, **settings), RATINGS, initial=first) for n in (1, 0))
    starts = [model.summary.objective_history[0] for model in (again, one)]
    assert starts[0] < first.summary.objective_history[-1] < starts[1]
    assert unchanged.X.tobytes() == first.X.tobytes()


def test_ids_that_are_new_to_sgd_start_from_random_factors():
    settings = {"rank": 3, "seed": 1, "numBlocks": 2}
    first = fit_without_spark(SGD(maxIter=2, **settings), RATINGS.filter((USERS != 4) & (ITEMS != 2)))
    started = fit_without_spark(SGD(maxIter=0, **settings), RATINGS, initial=first)
    found = dict(zip(started.ids[0], started.X, strict=True))
    assert np.linalg.norm(found.pop(4)) == pytest.approx(1, rel=1e-6)
    assert list(found) == first.ids[0]
    assert np.array(list(found.values())).tobytes() == first.X.tobytes()


def test_a_singular_system_names_the_row_and_the_remedy():
    ratings = columns_of(["u", "u", "w"], ["i", "j", "j"], [1.0, 2.0, 3.0])
    with pytest.raises(
        NumericalError, match=r'item "i" has no unique solution \(rank 2, 1 ratings, regularization 0\); raise'
    ):
        fit_without_spark(ALS(rank=2, regParam=0), ratings)


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
def test_numbers_beyond_float32_name_the_row_and_the_remedy(params, rating, weight, message):
    weights = {} if weight is None else {"weight": np.r_[weight, np.ones(199)]}
    ratings = columns_of(USERS, ITEMS, np.r_[rating, VALUES[1:]], **weights)
    with pytest.raises(NumericalError, match=message):
        fit_without_spark(ALS(rank=3, maxIter=2, **params), ratings)


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


@pytest.mark.spark
@pytest.mark.parametrize("name", MODELS)
def test_both_engines_give_the_same_bytes(spark, name):
    algorithm, settings = MODELS[name]
    table = ratings_table(USERS, ITEMS, VALUES).append_column("weight", [VALUES + 1])
    judged = np.arange(len(USERS)) % 5 == 0
    flagged = spark.createDataFrame(table.append_column("judged", [judged.tolist()])).repartition(3)
    estimator = algorithm(**{"rank": 4, "maxIter": 2, "seed": 7, "validationIndicatorCol": "judged", **settings})
    if algorithm is ALS:
        estimator.setNumBlocks(3)
    models = [estimator.copy().setEngine(engine).fit(flagged) for engine in ("local", "rdd")]
    assert [model.summary.engine for model in models] == ["local", "rdd"]
    for side in ("userFactors", "itemFactors"):
        tables = [getattr(model, side) for model in models]
        assert tables[0].schema == tables[1].schema
        assert_same_bytes(*map(factors_by_id, tables))
    local, rdd = ([replace(record, seconds=0) for record in model.summary.history] for model in models)
    assert local == rdd
    assert local[-1].validation_rmse > 0


@pytest.mark.spark
def test_both_engines_give_the_same_bytes_of_rows_in_parts(spark, monkeypatch):
    monkeypatch.setattr("mfspark.blocks.index._LEAST_SPLIT", 8)
    ratings = spark.createDataFrame(ratings_table(*skewed_ratings())).repartition(3)
    models = [ALS(rank=4, maxIter=2, engine=engine).fit(ratings) for engine in ("local", "rdd")]
    for side in ("userFactors", "itemFactors"):
        assert_same_bytes(*(factors_by_id(getattr(model, side)) for model in models))


@pytest.mark.spark
def test_progress_is_logged_and_spark_jobs_are_named(spark, ratings, caplog):
    tracker = spark.sparkContext.statusTracker()
    spark.sparkContext.setJobGroup("progress", "before")
    with caplog.at_level(logging.INFO, "mfspark"):
        ALS(rank=2, maxIter=2, engine="rdd").setNumBlocks(2).fit(ratings)
    lines = [line for line in caplog.messages if line.startswith("iteration")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all("objective" in line and "left" in line for line in lines)
    assert len(tracker.getJobIdsForGroup("progress")) >= 4
    assert spark.sparkContext.getLocalProperty("spark.job.description") == "before"
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    spark.sparkContext.setLocalProperty("spark.job.description", None)


@pytest.mark.spark
def test_iterations_and_factor_tables_shuffle_nothing(spark, ratings):
    def n_shuffles(action):
        # Each look takes a number too.
        before = spark.sparkContext._jsc.sc().newShuffleId()
        result = action()
        return spark.sparkContext._jsc.sc().newShuffleId() - before - 1, result

    settings = {"rank": 2, "checkpointInterval": 1, "engine": "rdd", "numUserBlocks": 2, "numItemBlocks": 2}
    few, _ = n_shuffles(lambda: ALS(maxIter=1, **settings).fit(ratings))
    many, model = n_shuffles(lambda: ALS(maxIter=7, **settings).fit(ratings))
    assert many == few > 0
    assert n_shuffles(lambda: (model.userFactors.collect(), model.itemFactors.collect()))[0] == 0


@pytest.mark.spark
def test_how_factors_travel_is_announced(wide_ratings, fit_wide, caplog):
    with caplog.at_level(logging.INFO, logger="mfspark"):
        fit_wide(wide_ratings, max_iter=1, maxBroadcastBytes=USERS_WIDE)
    assert "40 users in 3 blocks, factors of 0.00064 MB: exchanged block to block" in caplog.messages
    assert "25 items in 2 blocks, factors of 0.0004 MB: broadcast" in caplog.messages


@pytest.fixture
def limit_of(on_executors, monkeypatch):
    """Sets the size of the factors that the executors' engine sends."""
    engine = RddEngine if on_executors == "rdd" else ConnectEngine
    return lambda n_bytes: monkeypatch.setattr(engine, "max_sent_bytes", n_bytes)


SGD_SETTINGS = {"bold": {"schedule": "bold"}, "adagrad": {"schedule": "adagrad", "biases": True, "weightCol": "weight"}}


@pytest.fixture
def fit_in_both_ways(on_executors, limit_of, forget, monkeypatch):
    """Two fits in the same blocks, with wide sides and without: blocks of wide sides are cut by a sample of ids."""

    def fit(ratings, sgd, limit):
        ranges, start = {}, StochasticGradientDescent.start
        sgd.setEngine(on_executors)

        def recorded(algorithm, blocked, seed):
            ranges.update({side.ranges.n_rows: side.ranges for side in (blocked.users, blocked.items)})
            return start(algorithm, blocked, seed)

        limit_of(limit)
        with monkeypatch.context() as patch:
            patch.setattr(StochasticGradientDescent, "start", recorded)
            wide = forget(sgd.fit(ratings))
        limit_of(NONE_WIDE)
        monkeypatch.setattr(IdIndex, "ranges", lambda index, *_, **__: ranges[index.n_ids])
        return wide, sgd.fit(ratings)

    return fit


@pytest.mark.spark
@pytest.mark.parametrize("limit", [pytest.param(4 * 5 * (25 + 5), marks=pytest.mark.deep), BOTH_WIDE])
@pytest.mark.parametrize(
    "settings", [{"schedule": "bold"}, {"schedule": "adagrad", "biases": True, "weightCol": "weight"}]
)
def test_sgd_with_wide_sides_gives_the_same_bytes(wide_ratings, fit_in_both_ways, settings, limit):
    sgd = SGD(rank=WIDE_RANK, maxIter=3, numBlocks=3, seed=1, validationIndicatorCol="judges", **settings)
    found, expected = fit_in_both_ways(wide_ratings, sgd, limit)
    assert (found.summary.n_wide_sides, expected.summary.n_wide_sides) == (1 if limit > BOTH_WIDE else 2, 0)
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(*(factors_by_id(getattr(model, table)) for model in (found, expected)))
        assert getattr(found, table).schema == getattr(expected, table).schema
    assert found.summary.objective_history == pytest.approx(expected.summary.objective_history, rel=1e-12)


@pytest.mark.spark
def test_sgd_with_wide_sides_goes_on_from_a_model_and_fills_what_is_new(wide_ratings, fit_in_both_ways):
    sgd = SGD(rank=WIDE_RANK, maxIter=2, numBlocks=3, seed=1)
    first = sgd.fit(wide_ratings.where("user <> 4 AND item <> 2"))
    found, expected = fit_in_both_ways(wide_ratings, sgd.setInitialModel(first), BOTH_WIDE)
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(*(factors_by_id(getattr(model, table)) for model in (found, expected)))


@pytest.mark.spark
def test_a_singular_row_of_a_wide_side_is_named(wide_ratings):
    als = ALS(
        rank=20, maxIter=1, regParam=0, numUserBlocks=2, numItemBlocks=2, maxBroadcastBytes=4 * 20 * 30, engine="rdd"
    )
    everybody = wide_ratings.selectExpr("user", "explode(sequence(0, if(user = 7, 18, 24))) AS item").distinct()
    everybody = everybody.selectExpr("*", "pmod(hash(user, item), 11) AS rating")
    with pytest.raises(NumericalError, match=r"user 7 has no unique solution \(rank 20, regularization 0\)"):
        als.fit(everybody)


WIDE_MODELS = {
    "explicit": {"biases": True},
    "implicit": {"implicitPrefs": True, "unobservedWeight": 0.3, "regScaling": 0.7},
    "cg": {"implicitPrefs": True, "solver": "cg"},
    "subspace": {"solver": "subspace"},
    "nonnegative": {"nonnegative": True},
}


@pytest.mark.spark
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(USERS_WIDE, NONE_WIDE, marks=pytest.mark.deep),
        pytest.param(NONE_WIDE, USERS_WIDE, marks=pytest.mark.deep),
        (BOTH_WIDE, BOTH_WIDE),
    ],
)
@pytest.mark.parametrize("name", WIDE_MODELS)
def test_training_goes_on_from_a_model_with_wide_sides(wide_ratings, fit_wide, name, before, after):
    settings = WIDE_MODELS[name]
    whole = fit_wide(wide_ratings, max_iter=4, maxBroadcastBytes=NONE_WIDE, **settings)
    half = fit_wide(wide_ratings, max_iter=2, maxBroadcastBytes=before, **settings)
    found = fit_wide(wide_ratings, max_iter=2, maxBroadcastBytes=after, initialModel=half, **settings)
    assert found.summary.objective_history == pytest.approx(whole.summary.objective_history[2:], rel=1e-5)


@pytest.mark.spark
@pytest.mark.parametrize("settings", [{}, {"solver": "cg"}])
def test_ids_of_wide_sides_come_and_go(wide_ratings, fit_wide, settings):
    first = fit_wide(wide_ratings.where("user < 25 AND item < 18"), max_iter=3, **settings)
    later = wide_ratings.where("user >= 5 AND item >= 4")
    expected, found = (
        fit_wide(later, max_iter=2, maxBroadcastBytes=limit, initialModel=first, **settings)
        for limit in (NONE_WIDE, BOTH_WIDE)
    )
    for table in ("userFactors", "itemFactors"):
        assert_factors_close(
            *(factors_by_id(getattr(model, table)) for model in (found, expected)), rtol=1e-4, atol=1e-5
        )
    strangers = wide_ratings.withColumn("user", F.col("user") + 1000).withColumn("item", F.col("item") - 1000)
    assert fit_wide(strangers, max_iter=1, maxBroadcastBytes=USERS_WIDE, initialModel=first).summary.n_users == 40


@pytest.mark.spark
def test_wide_ids_of_another_type_than_the_initial_models_are_refused(wide_ratings, fit_wide):
    first = fit_wide(wide_ratings, max_iter=1)
    named = wide_ratings.withColumn("user", F.col("user").cast("string"))
    with pytest.raises(SchemaError, match="the initial model has int ids, the ratings have string ids; cast"):
        fit_wide(named, maxBroadcastBytes=USERS_WIDE, initialModel=first)


@pytest.mark.spark
def test_trainings_at_the_same_time_keep_their_own_wide_factors(wide_ratings, on_executors, forget):
    als = ALS(rank=WIDE_RANK, maxIter=6, seed=1, solver="cg", engine=on_executors, maxBroadcastBytes=BOTH_WIDE)
    maps = [{als.regParam: value} for value in (0.1, 0.3)]
    with ThreadPool(2) as pool:
        found = dict(pool.imap_unordered(next_of(als.fitMultiple(wide_ratings, maps)), range(2)))
    for number, settings in enumerate(maps):
        expected = forget(als.fit(wide_ratings, settings))
        assert forget(found[number]).summary.objective_history == expected.summary.objective_history


def next_of(models):
    return lambda _: next(models)
