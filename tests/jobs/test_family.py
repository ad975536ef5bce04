"""Implicit feedback, biases, weights and SGD through the front door."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders import random_ratings
from tests.jobs.runner import Workspace

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]

USERS, ITEMS, VALUES = random_ratings(8, 12, 9, 60)


def write(workspace, **columns):
    pq.write_table(pa.table({"user_id": USERS, "item_id": ITEMS, "rating": VALUES, **columns}), workspace.input)
    return workspace


def factors(workspace, side):
    """By id: the vector, and what the table has as its bias."""
    return {
        row[f"{side}_id"]: (np.array(row["features"]), row.get("bias", 0.0))
        for row in workspace.rows(f"{side}_factors")
    }


def run(workspace, *settings):
    outcome = workspace.run(*settings)
    assert outcome.exit_code == 0, outcome.stderr
    return workspace.json("metrics.json")


def test_biases_and_the_mean_survive_the_way_through_the_tables(tmp_path):
    workspace = write(
        Workspace(tmp_path, train={"biases": True, "refit": False}, split={"holdout": 0.2}, recommend={"n": 3})
    )
    metrics = run(workspace)
    users, items = factors(workspace, "user"), factors(workspace, "item")
    assert any(bias for _, bias in users.values())
    assert any(bias for _, bias in items.values())
    mean = metrics["training"]["global_mean"]
    assert mean == pytest.approx(VALUES.mean(), abs=0.5)

    def predict(user, item):
        return mean + users[user][1] + items[item][1] + users[user][0] @ items[item][0]

    for row in workspace.rows("recommendations"):
        for entry in row["recommendations"]:
            assert entry["score"] == pytest.approx(predict(row["user_id"], entry["item_id"]), rel=1e-5)
    # The holdout is what training left out: its error, from the pairs that the tables can predict.
    n_train = metrics["rows"]["train"]
    assert metrics["training"]["iterations"][-1]["rmse"] == pytest.approx(
        np.sqrt(metrics["training"]["iterations"][-1]["squared_error"] / n_train)
    )
    error = sum((value - predict(u, i)) ** 2 for u, i, value in zip(USERS, ITEMS, VALUES, strict=True)
                if u in users and i in items)  # fmt: skip
    held_out = metrics["holdout"]
    squared = metrics["training"]["iterations"][-1]["squared_error"]
    squared += held_out["rmse"] ** 2 * (held_out["n_pairs"] - held_out["n_unknown"])
    assert squared == pytest.approx(error, rel=1e-4)


def test_implicit_feedback_is_judged_by_its_positive_ratings(tmp_path):
    # Every held-out rating is 0 or less: nothing that should have been found.
    workspace = Workspace(
        tmp_path, train={"implicit_prefs": True, "alpha": 2.0}, split={"holdout": 0.3}, recommend={"n": 3}
    )
    metrics = run(write(workspace))
    assert metrics["training"]["iterations"][-1]["rmse"] is None
    held_out = metrics["holdout"]
    assert (held_out["rmse"], held_out["mae"]) == (None, None)
    assert held_out["n_users"] > 0
    assert set(metrics["baselines"]) == {"popularity"}
    write(workspace, rating=-VALUES)
    outcome = workspace.run("--overwrite", "train.reg_scaling=none")
    assert outcome.exit_code == 0, outcome.stderr
    held_out = workspace.json("metrics.json", "run@2")["holdout"]
    assert held_out["n_pairs"] > 0
    assert (held_out["n_users"], held_out["ndcg_at_3"]) == (0, None)


def test_given_folds_and_rejected_rows_without_one(tmp_path):
    folds = [None, *["test", "dev", "a", "b"] * 15][:60]
    workspace = Workspace(
        tmp_path,
        columns={"fold": "my fold"},
        split={"method": "column", "holdout_fold": "test", "validation_fold": "dev"},
        train={"patience": 1, "max_iter": 1},
    )
    # The runner's own share of a holdout is none of this method's settings.
    workspace.config.write_text(workspace.config.read_text().replace("holdout = 0.0\n", ""))
    metrics = run(write(workspace, **{"my fold": folds}))
    assert metrics["rows"]["rejected"] == {"my fold is null": 1}
    parts = {name: metrics["rows"][name] for name in ("holdout", "validation", "train")}
    assert parts == {"holdout": folds.count("test"), "validation": folds.count("dev"), "train": 29}
    assert metrics["training"]["iterations"][0]["validation_rmse"] > 0
    outcome = workspace.run("--overwrite", "split.holdout_fold=tset")
    assert outcome.exit_code == 3
    assert "no rating is in fold 'tset'; found folds a, b, dev, test, …" in outcome.stderr


def test_a_split_by_time_learns_from_the_past_alone(tmp_path):
    workspace = Workspace(
        tmp_path, columns={"timestamp": "at"}, split={"method": "time", "holdout": 0.25}, input={"duplicates": "last"}
    )
    at = [None, *range(59, 0, -1)]
    write(workspace, at=at)
    assert workspace.run(job="ingest").exit_code == 0
    times = {(int(u), int(i)): moment for u, i, moment in zip(USERS, ITEMS, at, strict=True)}
    ratings = workspace.rows("ratings")
    first = sorted(times[row["user_id"], row["item_id"]] for row in ratings if row["part"] == "holdout")
    assert first == list(range(59 - 14, 60))
    assert len(ratings) == 59
    assert [row["reason"] for row in workspace.rows("rejected_ratings")] == ["at is null"]


def test_the_job_says_that_its_error_is_of_clipped_predictions(tmp_path):
    workspace = write(Workspace(tmp_path, split={"holdout": 0.3}))
    low, high = (float(value) for value in np.quantile(VALUES, [0.45, 0.55]))
    outcome = workspace.run(f"train.clip=[{low}, {high}]")
    assert outcome.exit_code == 0, outcome.stderr
    assert f"holdout (predictions clipped to {low} … {high}): " in outcome.stderr
    clipped = workspace.json("metrics.json")["holdout"]
    assert workspace.run(run_id="free").exit_code == 0
    free = workspace.json("metrics.json", "free")["holdout"]
    assert clipped["rmse"] != free["rmse"]
    assert clipped["ndcg_at_10"] == free["ndcg_at_10"]


def test_events_of_a_query_are_counted_as_implicit_feedback(tmp_path):
    events = "".join(f'{{"event": {{"who": {u}, "what": "film {i}"}}}}\n' for u, i in zip(USERS, ITEMS, strict=True))
    workspace = Workspace(
        tmp_path,
        input={
            "format": "json", "duplicates": "sum",
            "query": "SELECT event.who AS user_id, event.what AS item_id FROM input WHERE event.who < 9",
        },
        columns={"rating": ""}, train={"implicit_prefs": True},
    )  # fmt: skip
    workspace.input.write_text(events + events)
    assert workspace.run(job="ingest").exit_code == 0
    pairs = {(int(u), f"film {i}"): 2.0 for u, i in zip(USERS, ITEMS, strict=True) if u < 9}
    assert {(row["user_id"], row["item_id"]): row["rating"] for row in workspace.rows("ratings")} == pairs
    assert list(workspace.json("manifest.json")["input_files"]) == [f"file://{workspace.input}"]


def test_a_weight_counts_as_so_many_ratings(tmp_path):
    weights = np.where(np.arange(60) % 3 == 0, 2.0, 1.0)
    for name in ("weighted", "repeated"):
        (tmp_path / name).mkdir()
    weighted, repeated = Workspace(tmp_path / "weighted", columns={"weight": "trust"}), Workspace(tmp_path / "repeated")
    run(write(weighted, trust=weights))
    twice = np.repeat(np.arange(60), weights.astype(int))
    pq.write_table(
        pa.table({"user_id": USERS[twice], "item_id": ITEMS[twice], "rating": VALUES[twice]}), repeated.input
    )
    run(repeated)
    for side in ("user", "item"):
        left, right = factors(weighted, side), factors(repeated, side)
        assert left.keys() == right.keys()
        for key, (vector, _) in left.items():
            np.testing.assert_allclose(vector, right[key][0], rtol=1e-4, atol=1e-5)


def test_rows_without_a_usable_weight_are_rejected_with_the_reason(tmp_path):
    weights = [0.0, -1.0, float("nan"), None, float("inf")] + [1.0] * 55
    workspace = Workspace(tmp_path, columns={"weight": "trust"}, input={"max_rejected_share": 0.2})
    metrics = run(write(workspace, trust=weights))
    expected = ["trust is NaN", "trust is infinite", "trust is not positive", "trust is not positive", "trust is null"]
    assert sorted(row["reason"] for row in workspace.rows("rejected_ratings")) == expected
    assert metrics["rows"]["rejected"] == {reason: expected.count(reason) for reason in expected}
    assert metrics["rows"]["train"] == 55


def test_stochastic_gradient_descent_trains_a_pipeline(tmp_path):
    workspace = Workspace(
        tmp_path,
        train={"algorithm": "sgd", "max_iter": 4, "biases": True},
        sgd={"num_blocks": 3, "learning_rate": 0.05},
        split={"holdout": 0.2, "validation": 0.2},
        recommend={"n": 3},
    )
    # Its blocks are those of [sgd]; the runner's own settings are of ALS.
    text = workspace.config.read_text()
    workspace.config.write_text(text.replace("num_user_blocks = 1\n", "").replace("num_item_blocks = 1\n", ""))
    training = run(write(workspace))["training"]
    objectives = [record["objective"] for record in training["iterations"]]
    assert len(objectives) == 4
    assert objectives[-1] < objectives[0]
    assert all(record["validation_rmse"] > 0 for record in training["iterations"])
    assert {len(row["recommendations"]) for row in workspace.rows("recommendations")} <= {1, 2, 3}
