"""Published factors know every rating of the input, and published lists hold none of them; the judged ones do not."""

from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfspark.batch.incremental import has_same_factors
from mfspark.config.loading import load_config
from tests.builders import random_ratings
from tests.jobs.runner import Workspace

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]

USERS, ITEMS, VALUES = random_ratings(8, 12, 14, 80)
N_RECOMMENDED = 5
NO_BLOCKS = ("num_user_blocks = 1\n", "num_item_blocks = 1\n")


def rating_table(rows=slice(None)):
    """Ratings with a moment and a fold; the first of them is given twice."""
    order = np.append(np.arange(len(USERS)), 0)[rows]
    return pa.table({
        "user_id": USERS[order], "item_id": ITEMS[order], "rating": VALUES[order], "at": order, "fold": order % 4,
    })  # fmt: skip


def run(workspace, *settings, run_id="run"):
    outcome = workspace.run(*settings, run_id=run_id)
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.stderr


def n_rated(workspace, ratings, run_id="run"):
    """How many entries of the lists their user has rated, of how many."""
    rated = set(zip(ratings["user_id"].to_pylist(), ratings["item_id"].to_pylist(), strict=True))
    listed = [
        (row["user_id"], entry["item_id"])
        for row in workspace.rows("recommendations", run_id)
        for entry in row["recommendations"]
    ]
    return len(rated.intersection(listed)), len(listed)


@pytest.mark.parametrize(
    ("split", "train"),
    [
        ({"holdout": 0.3, "validation": 0.2}, {}),
        pytest.param({"holdout": 0.3, "validation": 0.2}, {"implicit_prefs": True}, marks=pytest.mark.deep),
        pytest.param({"holdout": 0.3}, {"algorithm": "sgd", "refit": False}, marks=pytest.mark.deep),
        pytest.param({"holdout": 0.3}, {"engine": "rdd", "max_broadcast_bytes": 0}, marks=pytest.mark.classic),
        pytest.param(
            {"method": "random_per_user", "holdout": 0.3, "validation": 0.2}, {"biases": True}, marks=pytest.mark.deep
        ),
        ({"method": "leave_last", "holdout_items": 2, "validation_items": 1}, {"refit": False}),
        pytest.param({"method": "time", "holdout": 0.4}, {"nonnegative": True}, marks=pytest.mark.deep),
        ({"method": "column", "holdout_fold": 3, "validation_fold": 2}, {"patience": 1}),
    ],
)
def test_no_list_holds_what_its_user_has_rated(tmp_path, split, train):
    columns = {}
    if split.get("method") in ("leave_last", "time"):
        columns["timestamp"] = "at"
    if split.get("method") == "column":
        columns["fold"] = "fold"
    policy = "keep_all" if "fold" in columns else "mean"
    workspace = Workspace(
        tmp_path, split=split, train=train, columns=columns, recommend={"n": N_RECOMMENDED},
        input={"duplicates": policy},
    )  # fmt: skip
    # The runner's own settings are of other methods.
    text = workspace.config.read_text()
    text = text if "holdout" in split else text.replace("holdout = 0.0\n", "")
    for line in NO_BLOCKS if train.get("algorithm") == "sgd" else ():
        text = text.replace(line, "")
    workspace.config.write_text(text)
    pq.write_table(rating_table(), workspace.input)
    run(workspace)
    rows = workspace.json("metrics.json")["rows"]
    assert rows["holdout"] > 0
    n_seen, n_listed = n_rated(workspace, rating_table())
    assert (n_seen, n_listed > 0) == (0, True)
    # Lists that left the holdout out could not find any of it.
    assert workspace.json("metrics.json")["holdout"][f"hit_rate_at_{N_RECOMMENDED}"] > 0


def test_users_without_factors_get_the_popular_items(tmp_path):
    # Without a refit, users who are only in the held-out part have no factors.
    workspace = Workspace(
        tmp_path, columns={"timestamp": "at"}, split={"method": "time", "holdout": 0.3}, train={"refit": False},
        recommend={"n": N_RECOMMENDED}, input={"duplicates": "last"},
    )  # fmt: skip
    table = pa.table({"user_id": USERS, "item_id": ITEMS, "rating": VALUES, "at": USERS * 20 + ITEMS})
    pq.write_table(table, workspace.input)
    run(workspace, run_id="none")
    run(workspace, "recommend.fallback=popular", run_id="popular")
    known = {row["user_id"] for row in workspace.rows("user_factors", "popular")}
    everyone = set(USERS.tolist())
    assert known < everyone
    assert {row["user_id"] for row in workspace.rows("recommendations", "none")} == known
    lists = {row["user_id"]: row["recommendations"] for row in workspace.rows("recommendations", "popular")}
    assert lists.keys() == everyone
    assert {user for user in lists if lists[user][0]["is_fallback"]} == everyone - known
    assert n_rated(workspace, table, "popular")[0] == 0
    n_strangers = len(everyone - known)
    before, after = (workspace.json("metrics.json", run_id)["lists"] for run_id in ("none", "popular"))
    assert (before["fallback"], before["empty"]) == (0, n_strangers)
    assert (after["empty"], sum(after.values())) == (0, len(everyone))
    assert after["fallback"] >= n_strangers


def test_the_published_factors_know_what_was_held_out(tmp_path):
    # The last fifth: users whom training has not met.
    workspace = Workspace(
        tmp_path, columns={"timestamp": "at"}, split={"method": "time", "holdout": 0.2}, train={"max_iter": 20},
        input={"duplicates": "last"},
    )  # fmt: skip
    table = pa.table({"user_id": USERS, "item_id": ITEMS, "rating": VALUES, "at": USERS * 20 + ITEMS})
    pq.write_table(table, workspace.input)
    run(workspace)
    assert {row["user_id"] for row in workspace.rows("user_factors")} == set(USERS.tolist())
    assert len(workspace.json("metrics.json")["refit"]["iterations"]) == 5
    assert workspace.json("metrics.json")["training"]["users"] < workspace.json("metrics.json")["refit"]["users"]
    # Against a fit of all ratings from random factors.
    cold = workspace.elsewhere(tmp_path / "cold")
    run(cold, "split.holdout=0.0")
    refitted, fitted = (
        workspace.json("metrics.json")["refit"]["iterations"][-1],
        cold.json("metrics.json")["training"]["iterations"][-1],
    )
    assert refitted["objective"] == pytest.approx(fitted["objective"], rel=0.05)


def test_incremental_runs_start_from_factors_that_do_not_know_their_holdout(tmp_path):
    workspace = Workspace(
        tmp_path, input={"path": str(tmp_path / "days"), "incremental": True}, split={"holdout": 0.3},
        recommend={"n": N_RECOMMENDED}, train={"max_iter": 8, "warm_max_iter": 0},
    )  # fmt: skip
    (tmp_path / "days").mkdir()
    pq.write_table(rating_table(slice(0, 60)), tmp_path / "days/1.parquet")
    run(workspace, run_id="first")
    before = {row["user_id"]: row["features"] for row in workspace.rows("judged_user_factors", "first")}
    pq.write_table(rating_table(slice(60, 81)), tmp_path / "days/2.parquet")
    run(workspace, run_id="second")
    assert n_rated(workspace, rating_table(), "second")[0] == 0
    # Without an iteration, the judged factors are those that the first run was judged by; new users are not among them.
    judged = {row["user_id"]: row["features"] for row in workspace.rows("judged_user_factors", "second")}
    assert {user: judged[user] for user in before} == before


def test_factors_that_know_the_holdout_are_no_start(tmp_path, caplog):
    config = load_config(Workspace(tmp_path).config)
    base = mock.Mock(manifest={"config": config.as_dict()}, metrics={"refit": {}}, has_table=lambda _: False)
    base.name = "first"
    with caplog.at_level("INFO", logger="mfspark"):
        assert not has_same_factors(config, base)
    assert (
        "not from run first: that run was not incremental and kept only factors that were trained on the holdout too"
        in caplog.text
    )
    base.metrics = {}  # without a refit the published factors are the judged ones
    assert has_same_factors(config, base)
