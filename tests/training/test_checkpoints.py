"""Training that is interrupted and goes on from its checkpoint."""

from dataclasses import asdict

import numpy as np
import pytest

from mfspark import ALS, SGD
from mfspark.engine.rdd import RddEngine
from mfspark.errors import ConfigError, DataError
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.sgd import StochasticGradientDescent
from tests.asserts import assert_same_bytes, factors_by_id
from tests.builders import random_ratings, ratings_table

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=12, n_users=30, n_items=15, n_ratings=200)


class PowerCut(BaseException):
    """The end of a process."""


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


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


def assert_same_model(model, expected):
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(factors_by_id(getattr(model, table)), factors_by_id(getattr(expected, table)))
    histories = [
        [{**asdict(record), "seconds": None} for record in found.summary.history] for found in (model, expected)
    ]
    assert histories[0] == histories[1]
    assert model.summary.stop_reason == expected.summary.stop_reason
    assert model.summary.best_iteration == expected.summary.best_iteration


def forget(*models):
    """Drop what models with a wide side keep."""
    for model in models:
        for factors in model.factorTables:
            factors.batches.drop()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        (ALS, {"biases": True, "weightCol": "rating"}),
        (ALS, {"implicitPrefs": True, "alpha": 2.0, "solver": "cg"}),
        (ALS, {"implicitPrefs": True, "unobservedWeight": 0.3, "regScaling": 0.7, "solver": "subspace"}),
        (ALS, {"nonnegative": True}),
        (SGD, {"schedule": "adagrad", "biases": True, "numBlocks": 2}),
        (SGD, {"schedule": "bold", "numBlocks": 3}),
    ],
)
def test_interrupted_training_ends_with_the_same_bytes(ratings, tmp_path, iterations, estimator, settings):
    whole = estimator(rank=3, maxIter=5, seed=3, **settings).fit(ratings)
    saved = estimator(rank=3, maxIter=5, seed=3, checkpointPath=f"{tmp_path}/a/b", checkpointInterval=2, **settings)
    iterations.cuts = {4}
    with pytest.raises(PowerCut):
        saved.fit(ratings)
    assert names(tmp_path / "a/b") == ["iteration-000002.npz"]
    iterations.cuts = set()
    iterations.clear()
    assert_same_model(saved.fit(ratings.orderBy("rating")), whole)
    assert iterations == [3, 4, 5]
    assert names(tmp_path / "a/b") == ["iteration-000005.npz"]


def flagged(ratings):
    """Validation ratings of the wrong sign: the better the fit, the larger their error."""
    return ratings.selectExpr(
        "user", "item", "if((user + item) % 4 = 0, -rating, rating) AS rating", "(user + item) % 4 = 0 AS is_validation"
    )


def test_best_iteration_is_kept_over_an_interruption(ratings, tmp_path, iterations):
    als = ALS(rank=4, maxIter=20, seed=1, validationIndicatorCol="is_validation", patience=3)
    whole = als.fit(flagged(ratings))
    best = whole.summary.best_iteration
    saved = als.copy({als.checkpointPath: str(tmp_path), als.checkpointInterval: 1})
    iterations.cuts = {best + 2}
    with pytest.raises(PowerCut):
        saved.fit(flagged(ratings))
    iterations.cuts = set()
    # Whoever forgot patience at first has not lost the best iteration.
    impatient = saved.copy({als.patience: 0, als.maxIter: best + 2})
    assert impatient.fit(flagged(ratings)).summary.best_iteration == best + 2
    assert_same_model(saved.fit(flagged(ratings)), whole)


def test_finished_training_is_not_repeated_but_can_go_on(ratings, tmp_path, iterations):
    als = ALS(rank=3, maxIter=2, checkpointPath=str(tmp_path))
    model = als.fit(ratings)
    assert names(tmp_path) == ["iteration-000002.npz"]  # the last, though the interval is 10
    iterations.clear()
    assert_same_model(als.fit(ratings), model)
    assert iterations == []
    assert_same_model(als.copy({als.maxIter: 4}).fit(ratings), ALS(rank=3, maxIter=4).fit(ratings))
    with pytest.raises(ConfigError, match="the checkpoint has 4 iterations, more than maxIter 2; raise"):
        als.fit(ratings)


def test_training_that_had_converged_stays_so(ratings, tmp_path, iterations):
    als = ALS(rank=2, maxIter=50, tol=0.01, checkpointPath=str(tmp_path))
    model = als.fit(ratings)
    assert model.summary.stop_reason == "tol"
    iterations.clear()
    assert_same_model(als.fit(ratings), model)
    assert iterations == []


def test_other_settings_are_refused_by_name(ratings, tmp_path):
    als = ALS(rank=3, maxIter=1, checkpointPath=str(tmp_path))
    als.fit(ratings)
    before = (tmp_path / "iteration-000001.npz").read_bytes()
    message = (
        rf"the checkpoint in '{tmp_path}' was made with other settings: rank \(3 then, 4 now\), regScaling "
        r"\('count' then, 0.5 now\), userRegParam \(None then, 0.2 now\); use the same settings or another "
        "checkpointPath"
    )
    with pytest.raises(ConfigError, match=message):
        als.copy({als.rank: 4, als.regScaling: 0.5, als.userRegParam: 0.2}).fit(ratings)
    with pytest.raises(ConfigError, match=r"algorithm \('ALS' then, 'SGD' now\)"):
        SGD(rank=3, maxIter=1, checkpointPath=str(tmp_path)).fit(ratings)
    assert (tmp_path / "iteration-000001.npz").read_bytes() == before
    als.copy({als.predictionCol: "p", als.tol: 0.1, als.checkpointInterval: 3, als.blockSize: 9}).fit(ratings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("user != 3", r"users \(30 then, 29 now\)"),
        ("NOT (user = 0 AND item = 0)", r"ratings \(200 then, 199 now\)"),
        ("rating + 1", r"made with other ratings: mean rating \(([\d.]+) then, [\d.]+ now\); use the same ratings"),
        ("100 - user", r"made with other ratings: user ids and counts \('\w{64}' then, '\w{64}' now\); use"),
        ("cast(item as long)", r"made with other ratings: item ids and counts"),
        ("initial model", r"made with other ratings: initial model \(None then, '\w{64}' now\)"),
    ],
)
def test_other_ratings_are_refused_by_what_is_different(ratings, tmp_path, change, message):
    als = ALS(rank=3, maxIter=1, checkpointPath=str(tmp_path))
    model = als.fit(ratings)
    if change == "initial model":
        other, als = ratings, als.copy().setInitialModel(model)
    elif change.startswith(("user", "NOT")):
        other = ratings.where(change)
    else:
        column = "rating" if "rating" in change else "user" if "user" in change else "item"
        other = ratings.selectExpr("*", f"{change} AS new").drop(column).withColumnRenamed("new", column)
    with pytest.raises(DataError, match=message):
        als.fit(other)


def test_an_initial_model_is_where_the_first_attempt_began(ratings, tmp_path, iterations):
    model = ALS(rank=3, maxIter=2).fit(ratings)
    als = ALS(rank=3, maxIter=3, initialModel=model)
    whole = als.fit(ratings)
    saved = als.copy({als.checkpointPath: str(tmp_path), als.checkpointInterval: 1})
    iterations.cuts = {2}
    with pytest.raises(PowerCut):
        saved.fit(ratings)
    iterations.cuts = set()
    assert_same_model(saved.fit(ratings), whole)


@pytest.mark.parametrize("settings", [{}, {"checkpointInterval": -1, "checkpointPath": "{}/never"}])
def test_without_a_path_or_an_interval_nothing_is_written(ratings, tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    ALS(rank=2, maxIter=2, **{key: str(value).format(tmp_path) if key == "checkpointPath" else value
                              for key, value in settings.items()}).fit(ratings)  # fmt: skip
    assert names(tmp_path) == []


def test_several_fits_do_not_share_a_checkpoint(ratings, tmp_path):
    als = ALS(rank=2, maxIter=1, checkpointPath=str(tmp_path))
    with pytest.raises(ConfigError, match="several fits cannot share one checkpointPath"):
        als.fit(ratings, [{als.regParam: 0.1}, {als.regParam: 0.2}])
    assert names(tmp_path) == []
    assert als.getCheckpointPath() == str(tmp_path)


def test_checkpoints_hold_no_pickles(ratings, tmp_path):
    ALS(rank=2, maxIter=1, biases=True, checkpointPath=str(tmp_path)).fit(ratings)
    with np.load(tmp_path / "iteration-000001.npz", allow_pickle=False) as file:
        assert all(values.dtype.kind in "fu" for values in dict(file).values())


def test_best_wide_users_are_kept_over_an_interruption(ratings, tmp_path, iterations):
    als = ALS(
        rank=4,
        maxIter=20,
        seed=1,
        validationIndicatorCol="is_validation",
        patience=3,
        maxBroadcastBytes=300,
        engine="rdd",
    )
    whole = als.fit(flagged(ratings))
    saved = als.copy({als.checkpointPath: str(tmp_path), als.checkpointInterval: 1})
    iterations.cuts = {whole.summary.best_iteration + 2}
    with pytest.raises(PowerCut):
        saved.fit(flagged(ratings))
    iterations.cuts = set()
    resumed = saved.fit(flagged(ratings))
    assert_same_model(resumed, whole)
    forget(resumed, whole)


@pytest.mark.parametrize("limits", [(10**6, 300), (300, 10**6)])
def test_users_may_become_wide_or_narrow(ratings, tmp_path, iterations, monkeypatch, limits):
    """As on a cluster with more memory, or less."""
    monkeypatch.setattr(RddEngine, "max_sent_bytes", limits[0])
    als = ALS(rank=4, maxIter=4, checkpointPath=str(tmp_path), checkpointInterval=1, engine="rdd")
    iterations.cuts = {3}
    with pytest.raises(PowerCut):
        als.fit(ratings)
    iterations.cuts = set()
    monkeypatch.setattr(RddEngine, "max_sent_bytes", limits[1])
    expected, resumed = ALS(rank=4, maxIter=4, engine="rdd").fit(ratings), als.fit(ratings)
    assert resumed.summary.objective_history == pytest.approx(expected.summary.objective_history, rel=1e-6)
    forget(resumed, expected)
