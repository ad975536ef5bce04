"""Training that is interrupted and goes on from its checkpoint; where no side is wide, without a JVM."""

from dataclasses import asdict

import numpy as np
import pytest

from mfspark import ALS, SGD
from mfspark.engine.connect import ConnectEngine
from mfspark.engine.rdd import RddEngine
from mfspark.errors import ConfigError
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.sgd import StochasticGradientDescent
from tests.asserts import assert_same_bytes, factors_by_id
from tests.builders import OBJECTIVES, random_ratings
from tests.conftest import BOTH_WIDE, NONE_WIDE, USERS_WIDE
from tests.local import MemoryStore, columns_of, fit_without_spark

USERS, ITEMS, VALUES = random_ratings(seed=12, n_users=30, n_items=15, n_ratings=200)
RATINGS = columns_of(USERS, ITEMS, VALUES)
JUDGES = (USERS + ITEMS) % 4 == 0
# Validation ratings of the wrong sign: the better the fit, the larger their error.
FLAGGED = columns_of(USERS, ITEMS, np.where(JUDGES, -VALUES, VALUES), is_validation=JUDGES)


class PowerCut(BaseException):
    """The end of a process."""


@pytest.fixture
def iterations(monkeypatch):
    """Iterations that were run so far, by number; one that is in `cuts` is the process's last."""

    class Iterations(list):
        cuts = frozenset()

    run = Iterations()

    def watched(iterate):
        def iterate_unless_cut(solver, ratings, state, label):
            number = len(state.history) + 1
            if number in run.cuts:
                raise PowerCut
            run.append(number)
            return iterate(solver, ratings, state, label)

        return iterate_unless_cut

    for solver in (AlternatingLeastSquares, StochasticGradientDescent):
        monkeypatch.setattr(solver, "iterate", watched(solver.iterate))
    return run


def assert_same_course(summary, expected):
    histories = [[{**asdict(record), "seconds": None} for record in found.history] for found in (summary, expected)]
    assert histories[0] == histories[1]
    assert summary.stop_reason == expected.stop_reason
    assert summary.best_iteration == expected.best_iteration


def assert_same_model(model, expected):
    assert model.ids == expected.ids
    assert (model.X.tobytes(), model.Y.tobytes()) == (expected.X.tobytes(), expected.Y.tobytes())
    assert_same_course(model.summary, expected.summary)


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        (ALS, {"biases": True, "weightCol": "weight"}),
        (ALS, {"implicitPrefs": True, "alpha": 2.0, "solver": "cg"}),
        (ALS, {"implicitPrefs": True, "unobservedWeight": 0.3, "regScaling": 0.7, "solver": "subspace"}),
        (ALS, {"nonnegative": True}),
        (SGD, {"schedule": "adagrad", "biases": True, "numBlocks": 2}),
        (SGD, {"schedule": "bold", "numBlocks": 3}),
    ],
)
def test_interrupted_training_ends_with_the_same_bytes(iterations, estimator, settings):
    weights = {"weight": VALUES} if "weightCol" in settings else {}
    ratings, store = columns_of(USERS, ITEMS, VALUES, **weights), MemoryStore()
    solver = estimator(rank=3, maxIter=5, seed=3, **settings)
    whole = fit_without_spark(solver, ratings)
    iterations.cuts = {4}
    with pytest.raises(PowerCut):
        fit_without_spark(solver, ratings, checkpoints=store.checkpoints(2))
    assert store.iterations == [2]
    iterations.cuts = set()
    iterations.clear()
    in_other_order = ratings.take(np.argsort(VALUES))
    assert_same_model(fit_without_spark(solver, in_other_order, checkpoints=store.checkpoints(2)), whole)
    assert iterations == [3, 4, 5]
    assert store.iterations == [2, 4, 5]


def test_best_iteration_is_kept_over_an_interruption(iterations):
    als, store = ALS(rank=4, maxIter=20, seed=1, patience=3), MemoryStore()

    def fit_again(als):
        return fit_without_spark(als, FLAGGED, checkpoints=store.checkpoints(1))

    whole = fit_without_spark(als, FLAGGED)
    best = whole.summary.best_iteration
    iterations.cuts = {best + 2}
    with pytest.raises(PowerCut):
        fit_again(als)
    iterations.cuts = set()
    # Whoever forgot patience at first has not lost the best iteration.
    impatient = als.copy({als.patience: 0, als.maxIter: best + 2})
    assert fit_again(impatient).summary.best_iteration == best + 2
    assert_same_model(fit_again(als), whole)


def test_finished_training_is_not_repeated_but_can_go_on(iterations):
    als, store = ALS(rank=3, maxIter=2), MemoryStore()

    def fit_again(als):
        return fit_without_spark(als, RATINGS, checkpoints=store.checkpoints(10))

    model = fit_again(als)
    assert store.iterations == [2]  # the last, though the interval is 10
    iterations.clear()
    assert_same_model(fit_again(als), model)
    assert iterations == []
    longer = als.copy({als.maxIter: 4})
    assert_same_model(fit_again(longer), fit_without_spark(longer, RATINGS))
    with pytest.raises(ConfigError, match="the checkpoint has 4 iterations, more than maxIter 2; raise"):
        fit_again(als)


def test_training_that_had_converged_stays_so(iterations):
    als, store = ALS(rank=2, maxIter=50, tol=0.01), MemoryStore()
    model = fit_without_spark(als, RATINGS, checkpoints=store.checkpoints(10))
    assert model.summary.stop_reason == "tol"
    iterations.clear()
    assert_same_model(fit_without_spark(als, RATINGS, checkpoints=store.checkpoints(10)), model)
    assert iterations == []


def test_an_initial_model_is_where_the_first_attempt_began(iterations):
    als, store = ALS(rank=3, maxIter=3), MemoryStore()
    model = fit_without_spark(ALS(rank=3, maxIter=2), RATINGS)
    whole = fit_without_spark(als, RATINGS, initial=model)
    iterations.cuts = {2}
    with pytest.raises(PowerCut):
        fit_without_spark(als, RATINGS, initial=model, checkpoints=store.checkpoints(1))
    iterations.cuts = set()
    assert_same_model(fit_without_spark(als, RATINGS, initial=model, checkpoints=store.checkpoints(1)), whole)


def test_checkpoints_are_arrays_of_numbers():
    store = MemoryStore()
    fit_without_spark(ALS(rank=2, maxIter=1, biases=True), RATINGS, checkpoints=store.checkpoints(1))
    assert store.arrays
    assert all(values.dtype.kind in "fu" for values in store.arrays.values())


def assert_same_wide_model(model, expected):
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(factors_by_id(getattr(model, table)), factors_by_id(getattr(expected, table)))
    assert_same_course(model.summary, expected.summary)


@pytest.mark.spark
def test_best_wide_users_are_kept_over_an_interruption(spark, forget, tmp_path, iterations):
    flagged = spark.createDataFrame(FLAGGED).withColumnsRenamed({"user_id": "user", "item_id": "item"})
    als = ALS(
        rank=4,
        maxIter=20,
        seed=1,
        validationIndicatorCol="is_validation",
        patience=3,
        maxBroadcastBytes=300,
        engine="rdd",
    ).setNumBlocks(2)
    whole = forget(als.fit(flagged))
    saved = als.copy({als.checkpointPath: str(tmp_path), als.checkpointInterval: 1})
    iterations.cuts = {whole.summary.best_iteration + 2}
    with pytest.raises(PowerCut):
        saved.fit(flagged)
    iterations.cuts = set()
    assert_same_wide_model(forget(saved.fit(flagged)), whole)


@pytest.mark.spark
@pytest.mark.parametrize("limit", [pytest.param(USERS_WIDE, marks=pytest.mark.deep), BOTH_WIDE])
@pytest.mark.parametrize(
    "settings",
    [
        OBJECTIVES["biases"],
        OBJECTIVES["iALS"],
        {"solver": "cg", "implicitPrefs": True},
        {"solver": "subspace"},
        {"nonnegative": True},
    ],
)
def test_wide_factors_go_on_to_the_same_bytes(wide_ratings, fit_wide, tmp_path, settings, limit):
    settings = {"maxBroadcastBytes": limit, **settings}
    whole = fit_wide(wide_ratings, max_iter=4, **settings)
    path = str(tmp_path / "checkpoint")
    fit_wide(wide_ratings, max_iter=2, checkpointPath=path, **settings)
    resumed = fit_wide(wide_ratings, max_iter=4, checkpointPath=path, checkpointInterval=1, **settings)
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(factors_by_id(getattr(resumed, table)), factors_by_id(getattr(whole, table)))
    assert resumed.summary.objective_history == whole.summary.objective_history
    names = {path.name for path in (tmp_path / "checkpoint").iterdir() if not path.name.startswith(".")}
    assert names >= {"iteration-000004.npz", "iteration-000004.state.users.factors.parquet"}
    assert all(name.startswith("iteration-000004.") for name in names)


@pytest.mark.spark
@pytest.mark.parametrize("limits", [(BOTH_WIDE, NONE_WIDE), (NONE_WIDE, BOTH_WIDE), (USERS_WIDE, BOTH_WIDE)])
def test_sides_may_become_wide_or_narrow(wide_ratings, fit_wide, on_executors, tmp_path, monkeypatch, limits):
    """As on a cluster with more memory, or less."""
    engine = RddEngine if on_executors == "rdd" else ConnectEngine
    settings = {"biases": True, "solver": "cg"}
    whole = fit_wide(wide_ratings, max_iter=4, **settings)
    path = str(tmp_path / "checkpoint")
    monkeypatch.setattr(engine, "max_sent_bytes", limits[0])
    fit_wide(wide_ratings, max_iter=2, checkpointPath=path, **settings)
    monkeypatch.setattr(engine, "max_sent_bytes", limits[1])
    resumed = fit_wide(wide_ratings, max_iter=4, checkpointPath=path, **settings)
    assert resumed.summary.n_wide_sides == (0 if limits[1] == NONE_WIDE else 2)
    assert resumed.summary.objective_history == pytest.approx(whole.summary.objective_history, rel=1e-5)


@pytest.mark.spark
def test_wide_sides_of_sgd_go_on_to_the_same_bytes(wide_ratings, on_executors, tmp_path, monkeypatch, forget):
    engine = RddEngine if on_executors == "rdd" else ConnectEngine
    monkeypatch.setattr(engine, "max_sent_bytes", BOTH_WIDE)
    settings = {"rank": 3, "numBlocks": 2, "schedule": "adagrad", "biases": True, "engine": on_executors}
    whole = forget(SGD(maxIter=4, **settings).fit(wide_ratings))
    settings["checkpointPath"] = str(tmp_path / "checkpoint")
    forget(SGD(maxIter=2, **settings).fit(wide_ratings))
    assert_same_wide_model(forget(SGD(maxIter=4, **settings).fit(wide_ratings)), whole)
