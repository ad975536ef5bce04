"""Verdicts on a run, by its metrics, its baselines and the run that readers have."""

from types import SimpleNamespace

import pytest

from mfspark.batch.gate import judge, require_not_held
from mfspark.config.sections import (
    GateConfig,
    InputConfig,
    OutputConfig,
    PipelineConfig,
    RecommendConfig,
    SplitConfig,
    TrainConfig,
)
from mfspark.errors import GateError

METRICS = {
    "rows": {"read": 1000, "rejected": {"null user": 20}, "train": 800, "holdout": 100, "validation": 0},
    "training": {"users": 90, "items": 40, "parts": ["train"]},
    "refit": {"users": 100, "items": 50, "parts": ["train", "validation", "holdout"]},
    "lists": {"full": 60, "short": 20, "fallback": 15, "empty": 5},
    "holdout": {"rmse": 0.9, "mae": 0.7, "ndcg_at_5": 0.2},
    "baselines": {"popularity": {"ndcg_at_5": 0.25}, "mean_and_biases": {"rmse": 0.93, "mae": 0.7}},
}


def run_of(metrics, current=None):
    """A complete run, and what readers have."""
    ended = []
    known = None if current is None else SimpleNamespace(name="old", folder="out/runs/old", metrics=current)
    return SimpleNamespace(
        metrics=metrics, manifest={}, folder="out/runs/new", run_id="new", current=lambda: known,
        end_unpublished=ended.append, ended=ended,
    )  # fmt: skip


def config_of(**gate):
    return PipelineConfig(
        InputConfig("in"),
        OutputConfig("out"),
        split=SplitConfig(holdout=0.1),
        recommend=RecommendConfig(n=5),
        gate=GateConfig(**{"warn": [], **gate}),
    )


def verdict(rule, metrics=METRICS, current=None):
    run = run_of(metrics, current)
    judge(config_of(warn=[rule]), run)
    (found,) = run.manifest["gates"]
    assert (found["rule"], found["holds"]) == (rule, False)
    require_not_held(run)  # a warning only
    return found["passed"], found["message"]


@pytest.mark.parametrize(
    ("rule", "passed", "message"),
    [
        ("ndcg >= popularity", False, "NDCG@5 is 0.2, below 0.25 (the most popular items)"),
        ("ndcg >= 0.8 * popularity", True, "NDCG@5 is 0.2, at least 0.8 × 0.25 (the most popular items)"),
        ("rmse <= mean_and_biases", True, "RMSE is 0.9, at most 0.93 (mean and biases)"),
        ("mae <= 0.5 * mean_and_biases", False, "MAE is 0.7, above 0.5 × 0.7 (mean and biases)"),
        ("users >= 100", True, "number of users is 100, at least 100"),
        ("items >= 51", False, "number of items is 50, below 51"),
        ("ratings >= 900", True, "number of ratings is 900, at least 900"),
        ("full_lists >= 0.61", False, "share of users with a full list is 60.0%, below 61.0%"),
        ("rejected <= 0.019", False, "share of rejected rows is 2.0%, above 1.9%"),
        ("users >= 0.9 * current", True, "there is no current run to compare with"),
        ("precision >= 0.1", None, "this run has no precision@5"),
    ],
)
def test_a_rule_is_judged_by_the_run_and_its_baselines(rule, passed, message):
    assert verdict(rule) == (passed, message)


CURRENT = METRICS | {"refit": {"users": 120, "items": 50, "parts": ["train"]}, "holdout": {"ndcg_at_5": 0.19}}


@pytest.mark.parametrize(
    ("rule", "passed", "message"),
    [
        ("users >= 0.9 * current", False, "number of users is 100, below 0.9 × 120 (the current run 'old')"),
        ("users >= 0.8 * current", True, "number of users is 100, at least 0.8 × 120 (the current run 'old')"),
        ("ndcg >= current", True, "NDCG@5 is 0.2, at least 0.19 (the current run 'old')"),
        ("rmse <= current", None, "RMSE is 0.9, but the current run 'old' has none to compare it with"),
    ],
)
def test_a_rule_is_judged_by_the_current_run(rule, passed, message):
    assert verdict(rule, current=CURRENT) == (passed, message)


@pytest.mark.parametrize("nothing", [None, "missing"])
def test_a_metric_that_is_missing_never_counts_as_good(nothing):
    metrics = METRICS | {"holdout": {} if nothing else {"ndcg_at_5": None}}
    run = run_of(metrics, METRICS)
    judge(config_of(hold=["ndcg >= 0.0", "ndcg >= current", "ndcg >= popularity"]), run)
    assert [found["passed"] for found in run.manifest["gates"]] == [None, None, None]
    with pytest.raises(GateError, match="this run has no NDCG@5"):
        require_not_held(run)


def test_a_broken_rule_that_is_named_holds_the_run_until_it_is_accepted():
    run = run_of(METRICS, CURRENT)
    users, ndcg = "users >= 0.9 * current", "ndcg >= popularity"
    judge(config_of(hold=[users, ndcg, "rejected <= 0.5"]), run)
    with pytest.raises(GateError) as raised:
        require_not_held(run)
    assert str(raised.value) == (
        f"the gate holds run 'new', which does not meet '{users}': number of users is 100, below 0.9 × 120 (the "
        f"current run 'old'); and '{ndcg}': NDCG@5 is 0.2, below 0.25 (the most popular items); the run is complete, "
        "but not published; look at out/runs/new; to publish it all the same, start the job again with --run-id new "
        f"""--resume --set gate.accept='["{users}", "{ndcg}"]'"""
    )
    assert (run.ended, run.manifest["held_by"]) == (["held"], [users, ndcg])
    # Another rule, or none, does not publish it.
    for other in (["rejected <= 0.5"], []):
        judge(config_of(hold=other, accept=[ndcg]), run)
        with pytest.raises(GateError, match=r"the gate holds run 'new', .*: number of users is 100, below"):
            require_not_held(run)
    judge(config_of(accept=[users, ndcg]), run)
    require_not_held(run)
    assert {(found["rule"], found["holds"], found["passed"]) for found in run.manifest["gates"]} == {
        (users, False, False), (ndcg, False, False)
    }  # fmt: skip


def test_a_run_is_not_compared_with_itself():
    run = run_of(METRICS, CURRENT)
    run.folder = "out/runs/old"
    judge(config_of(hold=["users >= 0.9 * current"]), run)
    require_not_held(run)


def test_our_own_rules_are_warnings_and_in_the_log(caplog):
    run = run_of(METRICS)
    caplog.set_level("INFO", "mfspark")
    judge(config_of(warn=None), run)
    require_not_held(run)
    assert [found["rule"] for found in run.manifest["gates"] if not found["passed"]] == [
        "ndcg >= popularity", "full_lists >= 0.9", "rejected <= 0.01"
    ]  # fmt: skip
    assert caplog.messages == [
        "gate: the run does not meet 'ndcg >= popularity': NDCG@5 is 0.2, below 0.25 (the most popular items)",
        "gate: the run does not meet 'full_lists >= 0.9': share of users with a full list is 60.0%, below 90.0%",
        "gate: the run does not meet 'rejected <= 0.01': share of rejected rows is 2.0%, above 1.0%",
        "gate: the run meets 6 of 9 rules",
    ]


def test_of_our_own_rules_those_stay_that_can_be_judged():
    def rules(**sections):
        config = PipelineConfig(InputConfig("in"), OutputConfig("out"), **sections)
        return {rule.measure for rule in config.warnings}

    every = {"ndcg", "rmse", "users", "items", "ratings", "full_lists", "rejected"}
    assert rules(split=SplitConfig(holdout=0.1)) == every
    assert rules(split=SplitConfig(holdout=0.1), train=TrainConfig(implicit_prefs=True)) == every - {"rmse"}
    assert rules(split=SplitConfig(holdout=0.0)) == every - {"rmse", "ndcg"}


@pytest.mark.parametrize("key", ["hold", "warn"])
def test_a_named_rule_that_can_never_be_judged_is_refused(key):
    with pytest.raises(ValueError, match=r"gate: 'ndcg >= popularity' needs holdout ratings: set split"):
        PipelineConfig(
            InputConfig("in"), OutputConfig("out"), split=SplitConfig(holdout=0.0),
            gate=GateConfig(**{key: ["ndcg >= popularity"]}),
        )  # fmt: skip
    with pytest.raises(ValueError, match="'rmse <= 1' does not work with implicit feedback; choose ndcg"):
        PipelineConfig(
            InputConfig("in"), OutputConfig("out"), train=TrainConfig(implicit_prefs=True),
            gate=GateConfig(**{key: "rmse <= 1"}),
        )  # fmt: skip
