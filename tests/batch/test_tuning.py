"""Tuning: every trial is judged as a fit of its own would be, and the best settings are a configuration of a run."""

import re
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfspark import ALS, SGD, evaluation
from mfspark.batch import tuning
from mfspark.blocks import prepare
from mfspark.config.loading import load_config, load_study_config
from mfspark.errors import ConfigError, DataError, NumericalError
from mfspark.ml import estimators
from tests.jobs.runner import Workspace

needs_spark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]


def noisy_ratings():
    """Three of five ratings of 24 users and 16 items, in folds 0 (of the holdout), 1 (of validation) and 2."""
    random = np.random.default_rng(3)
    users, items = np.nonzero(random.random((24, 16)) < 0.6)
    ratings = 3 + random.normal(size=24)[users] + random.normal(size=16)[items] + 0.5 * random.normal(size=users.size)
    return pa.table(
        {"user_id": users, "item_id": items, "rating": ratings, "fold": random.integers(0, 5, users.size).clip(max=2)}
    )


@pytest.fixture
def make_study(tmp_path):
    """A workspace with the ratings, a given split and these settings of tuning."""
    pq.write_table(noisy_ratings(), tmp_path / "ratings.parquet")

    def make(space, *, tune=None, train=None, **sections):
        given = {
            "columns": {"fold": "fold"},
            "split": {"holdout": 0.1, "method": "column", "holdout_fold": 0, "validation_fold": 1},
        }
        return Workspace(
            tmp_path, **{**given, "train": train or {}, "tune": tune or {}, "tune.space": space, **sections}
        )

    return make


def trials_of(workspace, run_id="run"):
    rows = pq.read_table(workspace.output / "tuning/runs" / run_id / "trials").to_pylist()
    return sorted(rows, key=lambda row: (row["trial"], row["rung"], row["fold"]))


def fit(spark, estimator):
    """A model of fold 2, and what predicts fold 1."""
    ratings = spark.createDataFrame(noisy_ratings())
    estimator = estimator.setUserCol("user_id").setItemCol("item_id")
    return estimator.fit(ratings.where("fold = 2")), ratings.where("fold = 1")


@contextmanager
def interrupted_after(n_judged):
    """The study ends by what nobody has foreseen, when so many models have been judged."""
    judge, n_left = tuning._judge, iter(range(n_judged))

    def judge_few(*args):
        if next(n_left, None) is None:
            raise RuntimeError("the machine is gone")
        return judge(*args)

    with mock.patch.object(tuning, "_judge", judge_few):
        yield


def als(**params):
    return ALS(**{"rank": 2, "maxIter": 2, "seed": 0, **params}).setNumBlocks(1)


def rmse(spark, estimator):
    model, judged = fit(spark, estimator)
    pairs = np.array([(row.rating, row.prediction) for row in model.transform(judged).collect()])
    return np.sqrt(np.mean((pairs[:, 0] - pairs[:, 1]) ** 2))


class TestGrid:
    pytestmark = needs_spark

    def test_each_combination_is_judged_as_a_fit_of_its_own(self, spark, make_study):
        workspace = make_study({"train.rank": [1, 3], "train.reg_param": [0.05, 0.5]})
        outcome = workspace.run(job="tune")
        assert outcome.exit_code == 0, outcome.stderr
        found = {(row["train"]["rank"], row["train"]["reg_param"]): row["value"] for row in trials_of(workspace)}
        expected = {
            (rank, penalty): rmse(spark, als(rank=rank, regParam=penalty)) for rank in (1, 3) for penalty in (0.05, 0.5)
        }
        assert found == pytest.approx(expected, rel=1e-5)
        rank, penalty = min(expected, key=expected.get)
        best = load_config(workspace.output / "tuning/runs/run/best.toml")
        assert (best.train.rank, best.train.reg_param) == (rank, penalty)
        assert best == load_config(workspace.config, [f"train.rank={rank}", f"train.reg_param={penalty}"])
        assert (workspace.output / "tuning/CURRENT").read_text() == "run\n"
        assert "trial 4/4" in outcome.stderr
        assert "iteration 1" not in outcome.stderr
        told = [float(value) for value in re.findall(r"rmse ([\d.]+);", outcome.stderr)]
        assert sorted(told) == pytest.approx(sorted(expected.values()), rel=1e-5)
        assert workspace.current() is None

    def test_folds_take_turns_and_their_blocks_are_made_once(self, make_study, monkeypatch):
        made, block = [], prepare.blocked_ratings
        monkeypatch.setattr(prepare, "blocked_ratings", lambda *args: made.append(args) or block(*args))
        workspace = make_study(
            {"train.reg_param": [0.1, 0.2, 0.3]}, tune={"folds": 2}, columns={}, split={"holdout": 0.1}
        )
        assert workspace.run(job="tune").exit_code == 0
        assert len(made) == 2
        rows = trials_of(workspace)
        assert [(row["trial"], row["fold"]) for row in rows] == [(n, fold) for n in (1, 2, 3) for fold in (1, 2)]
        assert len({row["value"] for row in rows}) == 6
        best = workspace.output / "tuning/runs/run/metrics.json"
        means = {n: np.mean([row["value"] for row in rows if row["trial"] == n]) for n in (1, 2, 3)}
        assert f'"best_trial": {min(means, key=means.get)},' in best.read_text()

    def test_a_ranked_metric_is_that_of_lists_without_what_was_trained_on(self, spark, make_study):
        workspace = make_study({"train.rank": [2]}, tune={"metric": "ndcg"}, recommend={"n": 4})
        assert workspace.run(job="tune").exit_code == 0
        model, judged = fit(spark, als(regParam=0.1))
        seen = spark.createDataFrame(noisy_ratings()).where("fold = 2")
        lists = model.recommendForAllUsers(4, seen=seen)
        expected = evaluation.ranking_metrics(lists, judged, 4, user="user_id", item="item_id")
        assert trials_of(workspace)[0]["value"] == pytest.approx(expected["ndcg_at_4"])

    def test_trainings_to_a_tolerance_go_on_from_those_with_more_regularization(self, spark, make_study):
        train = {"tol": 0.05, "max_iter": 30}
        workspace = make_study({"train.reg_param": [0.05, 0.4], "train.rank": [2]}, train=train)
        assert workspace.run(job="tune").exit_code == 0
        first, second = trials_of(workspace)
        assert (first["train"]["reg_param"], second["train"]["reg_param"]) == (0.4, 0.05)
        params = {"maxIter": 30, "tol": 0.05}
        start, _ = fit(spark, als(regParam=0.4, **params))
        model, _ = fit(spark, als(regParam=0.05, initialModel=start, **params))
        assert second["iterations"] == len(model.summary.history)
        assert second["value"] == pytest.approx(rmse(spark, als(regParam=0.05, initialModel=start, **params)))

    @pytest.mark.remote
    def test_the_best_configuration_runs(self, make_study):
        workspace = make_study({"train.biases": [True, False]}, tune={"metric": "mae"}, recommend={"n": 3})
        assert workspace.run(job="tune").exit_code == 0
        workspace.config = workspace.output / "tuning/runs/run/best.toml"
        assert workspace.run().exit_code == 0
        assert workspace.json("manifest.json")["config"]["recommend"]["n"] == 3
        assert workspace.current() == "run\n"


class TestHalving:
    pytestmark = needs_spark

    @pytest.mark.parametrize("algorithm", ["als", "sgd"])
    def test_a_trial_that_is_kept_ends_where_it_would_have_without_halts(self, spark, make_study, algorithm):
        train = {"algorithm": algorithm, "max_iter": 5}
        if algorithm == "sgd":  # which has no such blocks
            train |= {"num_user_blocks": 10, "num_item_blocks": 10}
        workspace = make_study(
            {"train.reg_param.low": 0.01, "train.reg_param.high": 2.0, "train.reg_param.log": True},
            tune={"method": "halving", "trials": 6, "least_iterations": 2, "seed": 1},
            train=train,
            sgd={"num_blocks": 1},
        )
        outcome = workspace.run(job="tune")
        assert outcome.exit_code == 0, outcome.stderr
        rows = trials_of(workspace)
        by_trial = {n: [row for row in rows if row["trial"] == n] for n in range(1, 7)}
        assert {row["state"] for row in rows} == {"complete", "pruned"}
        kept = next(found for found in by_trial.values() if found[-1]["state"] == "complete")
        assert [row["iterations"] for row in kept] == [2, 4, 5]
        penalty = kept[0]["train"]["reg_param"]
        for row in kept:
            params = {"rank": 2, "regParam": penalty, "maxIter": row["iterations"], "seed": 0}
            alone = als(**params) if algorithm == "als" else SGD(**params, numBlocks=1)
            assert row["value"] == pytest.approx(rmse(spark, alone), rel=1e-4)
        for number, found in by_trial.items():
            last = found[-1]
            before = [row["value"] for row in rows if row["rung"] == last["rung"] and row["trial"] < number]
            if last["state"] == "pruned":
                assert last["value"] > min(before)


class TestFailures:
    pytestmark = needs_spark

    def test_a_trial_that_fails_is_recorded_and_the_study_goes_on(self, make_study):
        workspace = make_study({"train.reg_param": [0.0, 0.1], "train.rank": [12]})
        assert workspace.run(job="tune").exit_code == 0
        good, bad = trials_of(workspace)
        assert (good["state"], bad["state"], bad["value"]) == ("complete", "failed", None)
        assert "no unique solution" in bad["reason"]

    def test_a_study_without_a_complete_trial_is_told_so_though_some_were_only_given_up(self, make_study, monkeypatch):
        fit, n_fits = estimators.SharedFits.fit, iter(range(100))

        def fit_once(self, estimator):
            if next(n_fits) == 1:  # the second rung of the first trial
                raise NumericalError("too large")
            return fit(self, estimator)

        monkeypatch.setattr(estimators.SharedFits, "fit", fit_once)
        monkeypatch.setattr(tuning, "_is_worse_than_others", lambda candidate, *_: candidate.number > 1)
        workspace = make_study({"train.rank": [1, 2]}, tune={"method": "halving", "trials": 2}, train={"max_iter": 4})
        outcome = workspace.run(job="tune")
        assert outcome.exit_code == 4
        assert "the first one failed: too large" in outcome.errors[0]

    def test_data_that_cannot_be_used_end_the_study(self, make_study, monkeypatch):
        def refuse(*_):
            raise DataError("the ratings changed between two reads")

        monkeypatch.setattr(estimators.SharedFits, "fit", refuse)
        assert make_study({"train.rank": [1, 2]}).run(job="tune").exit_code == 3

    def test_a_study_whose_trials_all_fail_is_not_published(self, make_study):
        workspace = make_study({"train.reg_param": [0.0], "train.rank": [12]})
        outcome = workspace.run(job="tune")
        assert outcome.exit_code == 4
        assert "no trial completed; the first one failed: the normal equation of" in outcome.errors[0]
        assert not (workspace.output / "tuning/CURRENT").exists()

    def test_a_path_that_was_interrupted_begins_anew(self, make_study):
        workspace = make_study({"train.reg_param": [0.1, 0.2, 0.4]}, train={"tol": 0.05, "max_iter": 9})
        with interrupted_after(1):
            assert workspace.run(job="tune").exit_code == 1
        assert workspace.run("--resume", job="tune").exit_code == 0
        assert [row["state"] for row in trials_of(workspace)] == ["complete"] * 3

    def test_a_study_goes_on_where_it_was_interrupted_and_ends_the_same(self, make_study, monkeypatch):
        space = {"train.reg_param": [0.05, 0.1, 0.2], "train.rank": [1, 2]}
        workspace = make_study(space, tune={"method": "halving", "trials": 5}, train={"max_iter": 4})
        assert workspace.run(job="tune", run_id="whole").exit_code == 0
        with interrupted_after(4):
            assert workspace.run(job="tune").exit_code == 1
        fitted, fit_one = [], estimators.SharedFits.fit
        monkeypatch.setattr(estimators.SharedFits, "fit", lambda self, als: fitted.append(als) or fit_one(self, als))
        assert workspace.run("--resume", "tune.trials=6", job="tune").exit_code == 2
        assert workspace.run("--resume", job="tune").exit_code == 0

        def judged(run_id):
            return [{**row, "seconds": None} for row in trials_of(workspace, run_id)]

        assert judged("run") == judged("whole")
        assert 0 < len(fitted) < len(judged("whole"))


PROBLEMS = [
    ("folds = 1\n[tune.space]\ntrain.rank = [1]", "set split.validation above 0, or tune.folds above 1"),
    ("folds = 2\n[tune.space]", "tune.space is empty"),
    ("folds = 2\n[tune.space]\ntrain.ranc = [1]", "tune.space.train: unknown key 'ranc'; did you mean 'rank'"),
    ('folds = 2\n[tune.space]\ntrain.rank = [1, "2"]', "tune.space.train: rank: Input should be a valid integer"),
    ("folds = 2\n[tune.space]\ntrain.rank = []", "at least 1 item"),
    ("folds = 2\n[tune.space]\nrecommend.n = [5, 9]", "'recommend' cannot vary"),
    ("folds = 2\n[tune.space]\ntrain.rank = {low = 1, high = 9}", "a grid needs a list of values for 'train.rank'"),
    ("folds = 2\nmethod = 'random'\n[tune.space]\ntrain.rank = {low = 9, high = 1}", "low < high, found 9 and 1"),
    (
        "folds = 2\nmethod = 'random'\n[tune.space]\ntrain.reg_param = {low = 0.0, high = 1.0, log = true}",
        "log needs low > 0, found 0.0",
    ),
    ("folds = 2\nmethod = 'halving'\n[tune.space]\ntrain.max_iter = [3, 4]", "remove 'train.max_iter'"),
    (
        "folds = 2\nmethod = 'halving'\nleast_iterations = 10\n[tune.space]\ntrain.rank = [3]",
        "tune.least_iterations must be below train.max_iter, found 10 and 10",
    ),
    ("folds = 2\n[tune.space]\ntrain.implicit_prefs = [true, false]", "run one study for each value"),
    ("folds = 2\n[tune.space]\nsgd.decay = [0.1, 0.2]", "settings of sgd have no effect"),
    ("folds = 2\n[tune.space]\ntrain.rank = [1]\n[train]\npatience = 2\n[split]\nvalidation = 0.1", "would stop on"),
    (
        "folds = 2\n[tune.space]\ntrain.rank = [1]\n[train]\nimplicit_prefs = true",
        "does not work with implicit feedback",
    ),
    (
        "method = 'halving'\n[tune.space]\ntrain.rank = [1]\n[split]\nvalidation = 0.1\n[train]\npatience = 2",
        "halving sets the number of iterations",
    ),
]


@pytest.mark.parametrize(("tune", "message"), PROBLEMS)
def test_a_study_that_makes_no_sense_is_refused(tmp_path, tune, message):
    path = tmp_path / "tune.toml"
    path.write_text(f"[input]\npath = 'a'\n[output]\npath = 'b'\n[tune]\n{tune}\n")
    with pytest.raises(ConfigError) as caught:
        load_study_config(path)
    assert message in str(caught.value)
    if "[train]" not in tune:  # a run has nothing to do with it
        assert load_config(path).train.rank == 10


def test_settings_that_have_no_meaning_together_are_refused_before_spark_starts(tmp_path):
    path = tmp_path / "tune.toml"
    path.write_text(
        "[input]\npath = 'a'\n[output]\npath = 'b'\n[tune]\nfolds = 2\n"
        "[tune.space]\ntrain.nonnegative = [true]\ntrain.biases = [true]\n"
    )
    with pytest.raises(ConfigError, match="biases do not work with implicitPrefs or nonnegative"):
        tuning.require_tunable(load_study_config(path))


def test_the_same_seed_draws_the_same_trials(tmp_path):
    def drawn(seed):
        path = tmp_path / "tune.toml"
        path.write_text(
            f"[input]\npath = 'a'\n[output]\npath = 'b'\n[tune]\nfolds = 2\nmethod = 'random'\nseed = {seed}\n"
            "trials = 5\n[tune.space]\ntrain.rank = {low = 4, high = 64, log = true}\ntrain.biases = [true, false]\n"
            "train.reg_param = {low = 0, high = 1}\n"
        )
        config = load_study_config(path)
        return [candidate.settings for candidate in tuning._candidates(config, tuning._new_study(config))]

    assert drawn(1) == drawn(1) != drawn(2)
    assert all(4 <= params["train.rank"] <= 64 for params in drawn(3))
    assert all(0 < params["train.reg_param"] < 1 for params in drawn(3))
