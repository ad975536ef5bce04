"""Metrics → the verdict in words."""

from dataclasses import replace

import pytest

from mfspark.report.verdict import Gate, verdict
from tests.report.examples import facts

POPULARITY = {"popularity": {"ndcg_at_10": 0.15}}
BOTH = {**POPULARITY, "mean_and_biases": {"rmse": 0.94}}


def judged(ndcg, rmse, baselines, current=None, **metrics):
    holdout = facts().metrics["holdout"] | {"ndcg_at_10": ndcg, "rmse": rmse}
    run = facts(holdout=holdout, baselines=baselines, **metrics)
    if current is not None:
        before = facts().metrics | {"holdout": dict(zip(("ndcg_at_10", "rmse"), current, strict=True))}
        run = replace(run, current=("2026-11-26", before))
    return run


def test_a_good_run_is_better_than_baselines_and_as_good_as_the_run_before():
    found = verdict(judged(0.1812, 0.931, BOTH, (0.1815, 0.9308)))
    assert (found.state, found.badge) == ("good", "published")
    assert found.lead == ("Published. The model is better than both baselines and about as good as the run before.")
    assert found.metrics == [
        "NDCG@10 0.181: 21 % better than the most popular items (0.150), about the same as run 2026-11-26 (0.181).",
        "RMSE 0.931: 0.96 % better than mean and biases (0.940), about the same as run 2026-11-26 (0.931).",
    ]


@pytest.mark.parametrize(
    ("ndcg", "rmse", "state", "lead"),
    [
        (0.025, 0.9, "doubtful",
         "worse than the most popular items, though better than mean and biases, and worse than the run before"),
        (0.025, 3.42, "doubtful",
         "worse than both baselines and worse than the run before"),
        (0.3, 1.0, "doubtful",
         "worse than mean and biases, though better than the most popular items, and better than the run before by "
         "one metric and worse by another"),
        (0.15, 0.9, "doubtful", "no better than the most popular items and worse than the run before"),
        (0.3, 0.8, "good", "better than both baselines and better than the run before"),
    ],
)  # fmt: skip
def test_each_comparison_is_in_the_first_sentence(ndcg, rmse, state, lead):
    found = verdict(judged(ndcg, rmse, BOTH, (0.2, 0.9)))
    assert (found.state, found.lead) == (state, f"Published. The model is {lead}.")


def test_a_large_difference_and_one_from_nothing_are_not_in_percent():
    found = verdict(judged(0.2, 30.0, {"popularity": {"ndcg_at_10": 0.0}, "mean_and_biases": {"rmse": 0.9}}))
    assert found.metrics == [
        "NDCG@10 0.200: better than the most popular items (0.000).",
        "RMSE 30.000: far worse than mean and biases (0.900).",
    ]


def test_what_cannot_be_judged_is_said():
    unknown = {"n_pairs": 338, "n_unknown": 338, "rmse": None, "n_users": 0, "ndcg_at_10": None}
    found = verdict(facts(holdout=unknown, baselines=BOTH))
    why = "every holdout rating has a user or item that is not in the training ratings"
    assert found.metrics == [f"NDCG@10 has no value: {why}.", f"RMSE has no value: {why}."]
    assert (found.state, found.lead) == (
        "unknown", "Published. It is not known whether the model is good: none of its metrics could be compared."
    )  # fmt: skip
    found = verdict(facts(holdout={"n_pairs": 0, "n_unknown": 0, "rmse": None, "mae": None}, baselines={}))
    assert (found.state, found.metrics) == ("unknown", [])
    assert found.lead == "Published. It is not known whether the model is good: the run has no holdout to judge it by."


def test_a_current_run_without_the_metric_is_no_success():
    found = verdict(judged(0.18, 0.9, BOTH, (None, None)))
    assert found.metrics[0].endswith("(0.150), run 2026-11-26 has none to compare it with.")
    assert "the run before" not in found.lead


def test_implicit_feedback_has_no_error_to_miss():
    run = judged(0.18, None, POPULARITY)
    run.manifest["config"]["train"]["implicit_prefs"] = True
    assert verdict(run).metrics == ["NDCG@10 0.180: 20 % better than the most popular items (0.150)."]


def gate(rule, *, holds, passed):
    return {"rule": rule, "holds": holds, "passed": passed, "message": f"about {rule}"}


@pytest.mark.parametrize("passed", [False, None])
def test_a_run_that_a_rule_holds_is_held(passed):
    gates = [
        gate("a", holds=False, passed=False),
        gate("b", holds=True, passed=passed),
        gate("c", holds=True, passed=True),
    ]
    found = verdict(judged(0.2, 0.9, BOTH, (0.1, 1.0), gates=gates))
    assert (found.state, found.badge) == ("held", "held, not published")
    assert found.lead.startswith("Held: readers stay with run 2026-11-26. The model is better than both")
    assert found.gates == [Gate(True, "b", "about b"), Gate(False, "a", "about a")]
    assert verdict(judged(0.2, 0.9, BOTH, gates=gates)).lead.startswith("Held: readers have no run yet. The model")


def test_a_warning_holds_nothing_and_is_not_green():
    found = verdict(judged(0.2, 0.9, BOTH, gates=[gate("a", holds=False, passed=None)]))
    assert (found.state, found.badge, found.gates) == ("doubtful", "published", [Gate(False, "a", "about a")])
    assert verdict(judged(0.2, 0.9, BOTH, gates=[gate("a", holds=True, passed=True)])).state == "good"


def test_news_are_changes_of_data_and_settings():
    before = facts().metrics | {"training": facts().metrics["training"] | {"users": 4}}
    run = replace(facts(), current=("run-0", before), settings={"train.rank": (None, 3), "train.biases": (True, False)})
    assert verdict(run).news == (
        "Since run run-0: users 4 → 3 (−25 %); train.rank not set → 3; train.biases true → false."
    )
    assert verdict(replace(run, settings={"input.query": (None, "x" * 99)})).news.endswith(f"not set → {'x' * 60}….")
    same = replace(facts(), current=("run-0", facts().metrics))
    assert verdict(same).news == ("The numbers of ratings, users and items and the settings are those of run run-0.")
    assert verdict(facts()).news.startswith("This is the first run of its output")
