"""Good runs end to end, through the front door."""

import json
import math
import re
import shutil
from collections import Counter
from decimal import Decimal
from typing import NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mfspark.batch.pipeline
from mfspark.config.loading import load_config
from mfspark.config.sections import ColumnsConfig
from mfspark.tables.ingest import accepted_ratings, merge_duplicates, require_rating_schema
from mfspark.training.als import AlternatingLeastSquares
from tests.builders import random_ratings
from tests.jobs.runner import Workspace, snapshot, write_parts

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]

N_RECOMMENDED = 2
TABLES = ["item_factors", "recommendations", "rejected_ratings", "user_factors"]
REASONS = {
    (None, 5, 3.0): "user_id is null",
    ("user 0", None, 3.0): "item_id is null",
    ("user 0", 5, None): "rating is null",
    ("user 0", 15, math.nan): "rating is NaN",
    ("user 0", 25, math.inf): "rating is infinite",
    ("user 3", 25, -math.inf): "rating is infinite",
    ("user 0", 35, 1e300): "rating is infinite",
    (None, None, 2.0): "user_id is null; item_id is null",
    ("user 6", None, math.nan): "item_id is null; rating is NaN",
}
"""Raw (user, item, rating) that cannot be used, and why."""


def small_ratings() -> pa.Table:
    """String users, decimal items, double ratings and a column that no step knows; 22 pairs, one of them twice."""
    users, items, ratings = random_ratings(0, 7, 5, 22)
    accepted = [(f"user {3 * u}", 10 * int(i) + 5, float(r)) for u, i, r in zip(users, items, ratings, strict=True)]
    accepted.append((accepted[0][0], accepted[0][1], accepted[0][2] + 1.5))
    user, item, rating = zip(*accepted, *REASONS, strict=True)
    decimals = pa.array([None if value is None else Decimal(value) for value in item], pa.decimal128(10, 0))
    sources = [f"row {row}" for row in range(len(user))]
    return pa.table({"source": sources, "user_id": pa.array(user), "item_id": decimals, "rating": pa.array(rating)})


@pytest.fixture(scope="module")
def small(spark_session, tmp_path_factory):  # noqa: ARG001
    """One run of the whole pipeline; read only."""
    workspace = Workspace(
        tmp_path_factory.mktemp("small"),
        input={"max_rejected_share": 0.5},
        split={"holdout": 0.3, "seed": 3},
        recommend={"n": N_RECOMMENDED},
    )
    write_parts(small_ratings(), workspace.input, 3)
    outcome = workspace.run()
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.errors == []
    return workspace


@pytest.fixture
def copy_of_small(small, tmp_path):
    """A published run that may be changed, whose configuration still names the input of `small`."""
    shutil.copytree(small.output, tmp_path / "out")
    return small.elsewhere(tmp_path)


@pytest.fixture(scope="module")
def single_steps(small, spark_session, tmp_path_factory):  # noqa: ARG001
    """The same run, one job a step, and what only the steps need: the ratings by part, and the judged factors."""
    workspace = small.elsewhere(tmp_path_factory.mktemp("steps"))
    for job in ("ingest", "train", "recommend"):
        assert workspace.current() is None
        outcome = workspace.run(job=job, run_id="run")
        assert outcome.exit_code == 0, outcome.stderr
    steps = Steps(workspace, workspace.rows("ratings"), *factors_of(workspace, "judged_"))
    outcome = workspace.run(job="evaluate", run_id="run")
    assert outcome.exit_code == 0, outcome.stderr
    return steps


class Steps(NamedTuple):
    workspace: Workspace
    ratings: list[dict]
    users: dict
    items: dict


def factors_of(workspace, prefix=""):
    return [
        {row[f"{side}_id"]: np.array(row["features"], float) for row in workspace.rows(f"{prefix}{side}_factors")}
        for side in ("user", "item")
    ]


def seen_by_user(ratings, parts=("train", "validation", "holdout")):
    seen = {}
    for row in ratings:
        seen.setdefault(row["user_id"], set())
        if row["part"] in parts:
            seen[row["user_id"]].add(row["item_id"])
    return seen


@pytest.mark.remote
def test_output_is_the_contracts(small):
    assert small.current() == "run\n"
    assert [path.name for path in (small.output / "runs").iterdir()] == ["run"]
    files = {path.name for path in (small.output / "runs/run").iterdir()}
    assert files == {*TABLES, "metrics.json", "manifest.json", "job.log"}


@pytest.mark.parametrize(
    ("table", "schema"),
    [
        ("user_factors", "struct<user_id:string,features:array<float>>"),
        ("item_factors", "struct<item_id:decimal(10,0),features:array<float>>"),
        (
            "recommendations",
            "struct<user_id:string,recommendations:array<struct<item_id:decimal(10,0),score:float>>>",
        ),
        (
            "rejected_ratings",
            "struct<source:string,user_id:string,item_id:decimal(10,0),rating:double,reason:string>",
        ),
    ],
)
def test_schema_of_each_table(spark, small, table, schema):
    assert spark.read.parquet(f"{small.output}/runs/run/{table}").schema.simpleString() == schema
    assert small.json("manifest.json")["tables"][table]["schema"] == schema


@pytest.mark.remote
def test_manifest_says_what_was_run(small):
    manifest = small.json("manifest.json")
    config = load_config(small.config)
    assert {key: manifest[key] for key in ("run_id", "status", "steps", "config", "config_hash")} == {
        "run_id": "run",
        "status": "complete",
        "steps": ["ingest", "train", "recommend", "evaluate"],
        "config": config.as_dict(),
        "config_hash": config.hash(),
    }
    # Their sizes and times would need a second listing, which no later run compares with anything.
    assert manifest["input_files"] == {f"file://{small.input}/part-{part}.parquet": None for part in range(3)}
    assert {"mfspark", "python", "java", "spark", "pyspark", "numpy", "numba", "pyarrow"} <= set(manifest["versions"])
    assert manifest["versions"]["pyarrow"] == pa.__version__
    assert manifest["started"] <= manifest["finished"]
    assert sorted(manifest["tables"]) == TABLES
    assert "error" not in manifest


def test_metrics_count_rows_iterations_and_seconds(small, single_steps):
    metrics, ratings = small.json("metrics.json"), single_steps.ratings
    parts = [row["part"] for row in ratings]
    assert len(parts) == 23
    assert 0 < parts.count("holdout") < 23
    reasons = list(REASONS.values())
    assert metrics["rows"] == {
        "read": 23 + len(REASONS),
        "rejected": {reason: reasons.count(reason) for reason in reasons},
        "carried": 0,
        "merged_duplicates": 0,
        "train": parts.count("train"),
        "validation": 0,
        "holdout": parts.count("holdout"),
    }
    assert sorted(metrics["seconds"]) == ["evaluate", "ingest", "recommend", "train"]
    training = metrics["training"]
    assert [record["iteration"] for record in training["iterations"]] == [1, 2]
    assert training["stop_reason"] == "max_iter"
    published = factors_of(small)
    for course, rows, (users, items) in (
        (training, [row for row in ratings if row["part"] == "train"], (single_steps.users, single_steps.items)),
        (metrics["refit"], ratings, published),
    ):
        assert (course["users"], course["items"]) == (len(users), len(items))
        squared_error = sum((row["rating"] - users[row["user_id"]] @ items[row["item_id"]]) ** 2 for row in rows)
        assert course["iterations"][-1]["squared_error"] == pytest.approx(squared_error, rel=1e-4)
    assert (training["parts"], metrics["refit"]["parts"]) == (["train"], ["train", "validation", "holdout"])
    assert len(metrics["refit"]["iterations"]) == 3


def test_without_a_holdout_nothing_is_read_to_judge_it(small):
    run = mock.Mock(metrics={"rows": {"holdout": 0}})
    mfspark.batch.pipeline.evaluate(load_config(small.config), run)
    assert run.metrics["holdout"] == {"n_pairs": 0, "n_unknown": 0, "rmse": None, "mae": None}
    assert run.metrics["baselines"] == {}
    run.read_table.assert_not_called()


def test_holdout_metrics_are_those_of_the_tables(small, single_steps):
    # Once wrong: an alias in a select was taken for the column of the same name ("lateral column alias").
    ratings, users, items = single_steps.ratings, single_steps.users, single_steps.items
    holdout = [row for row in ratings if row["part"] == "holdout"]
    known = [row for row in holdout if row["user_id"] in users and row["item_id"] in items]
    errors = np.array([users[row["user_id"]] @ items[row["item_id"]] - row["rating"] for row in known])
    seen = seen_by_user(ratings, ["train"])
    ranked = {
        user: sorted(set(items) - seen[user], key=lambda item: -(x @ items[item]))[:N_RECOMMENDED]
        for user, x in users.items()
    }
    relevant = {}
    for row in holdout:
        if row["user_id"] in ranked:
            relevant.setdefault(row["user_id"], set()).add(row["item_id"])
    train = [row for row in ratings if row["part"] == "train"]
    expected = list_metrics(ranked, relevant, train)
    assert 0 < expected["recall_at_2"] < 1  # the sample can tell a right metric from a wrong one
    n_pairs, n_unknown = len(holdout), len(holdout) - len(known)
    errors_of_the_model = {"rmse": np.sqrt(np.mean(errors**2)), "mae": np.mean(np.abs(errors))}
    metrics = small.json("metrics.json")
    assert metrics["holdout"] == pytest.approx(
        {"n_pairs": n_pairs, "n_unknown": n_unknown, **errors_of_the_model, **expected}, rel=1e-5
    )

    popular = sorted(items, key=lambda item: (-sum(row["item_id"] == item for row in train), item))
    lists = {user: [item for item in popular if item not in seen[user]][:N_RECOMMENDED] for user in users}
    assert lists != ranked
    assert metrics["baselines"]["popularity"] == pytest.approx(list_metrics(lists, relevant, train), rel=1e-5)

    mean = np.mean([row["rating"] for row in train])
    item_bias, user_bias = {}, {}
    for item in items:
        deviations = [row["rating"] - mean for row in train if row["item_id"] == item]
        item_bias[item] = sum(deviations) / (25 + len(deviations))
    for user in users:
        deviations = [row["rating"] - mean - item_bias[row["item_id"]] for row in train if row["user_id"] == user]
        user_bias[user] = sum(deviations) / (10 + len(deviations))
    errors = np.array([mean + item_bias[row["item_id"]] + user_bias[row["user_id"]] - row["rating"] for row in known])
    assert metrics["baselines"]["mean_and_biases"] == pytest.approx(
        {
            "n_pairs": n_pairs,
            "n_unknown": n_unknown,
            "rmse": np.sqrt(np.mean(errors**2)),
            "mae": np.mean(np.abs(errors)),
        },
        rel=1e-5,
    )


def list_metrics(ranked, relevant, train):
    """Metrics of the lists {user: items}, by their definitions."""
    gains = [1 / math.log2(position + 2) for position in range(N_RECOMMENDED)]
    found = {name: [] for name in ("ndcg", "precision", "recall", "map", "hit_rate")}
    for user, wanted in relevant.items():
        hits = [item in wanted for item in ranked[user]]
        n_findable = min(len(wanted), N_RECOMMENDED)
        precisions = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
        found["ndcg"].append(sum(g for g, hit in zip(gains, hits, strict=False) if hit) / sum(gains[:n_findable]))
        found["precision"].append(sum(hits) / N_RECOMMENDED)
        found["recall"].append(sum(hits) / len(wanted))
        found["map"].append(sum(precisions) / n_findable)
        found["hit_rate"].append(any(hits))
    shares = Counter(row["item_id"] for row in train)
    shown = [item for items in ranked.values() for item in items]
    found["coverage"] = [len(set(shown)) / len(shares)]
    found["novelty"] = [-math.log2(shares[item] / len(train)) for item in shown]
    return {"n_users": len(relevant), **{f"{name}_at_2": np.mean(values) for name, values in found.items()}}


def test_each_rejected_row_has_its_reason(small):
    found = {row["source"]: row for row in small.rows("rejected_ratings")}
    expected = [row for row in small_ratings().to_pylist() if int(row["source"].removeprefix("row ")) >= 23]
    assert len(found) == len(expected) == len(REASONS)
    for raw, reason in zip(expected, REASONS.values(), strict=True):
        assert repr(found[raw["source"]]) == repr({**raw, "reason": reason})  # repr: NaN equals NaN


def test_recommendations_are_the_best_unseen_items(small, single_steps):
    users = {row["user_id"]: np.array(row["features"], np.float32) for row in small.rows("user_factors")}
    items = {row["item_id"]: np.array(row["features"], np.float32) for row in small.rows("item_factors")}
    seen = seen_by_user(single_steps.ratings)
    recommendations = small.rows("recommendations")
    assert [row["user_id"] for row in recommendations] == sorted(users)
    n_entries = set()
    for row in recommendations:
        unseen = set(items) - seen[row["user_id"]]
        best = sorted(unseen, key=lambda item: -(users[row["user_id"]] @ items[item]))[:N_RECOMMENDED]
        assert [entry["item_id"] for entry in row["recommendations"]] == best
        scores = [entry["score"] for entry in row["recommendations"]]
        np.testing.assert_allclose(scores, [users[row["user_id"]] @ items[item] for item in best], rtol=1e-5)
        n_entries.add(len(best))
    assert len(n_entries) > 1  # some users have fewer unseen items than asked for


def test_single_steps_make_the_same_run(small, single_steps):
    workspace = single_steps.workspace
    for table in TABLES:
        assert repr(workspace.rows(table)) == repr(small.rows(table))
    for name in ("rows", "holdout", "baselines"):
        assert workspace.json("metrics.json")[name] == small.json("metrics.json")[name]
    assert workspace.json("manifest.json")["status"] == "complete"
    assert workspace.current() == "run\n"
    assert {path.name for path in (workspace.output / "runs/run").iterdir()} == {
        *TABLES,
        "metrics.json",
        "manifest.json",
        "job.log",
    }
    log = (workspace.output / "runs/run/job.log").read_text()
    assert re.findall(r"(\w+): started", log) == ["ingest", "train", "recommend", "evaluate"]


def test_factors_do_not_depend_on_the_order_of_rows_and_files(small, tmp_path):
    # Reached by a glob, in two files instead of three, in reverse order; one pair has two ratings.
    raw = small_ratings()
    write_parts(raw.take(list(reversed(range(raw.num_rows)))), tmp_path / "shuffled", 2)
    workspace = small.elsewhere(tmp_path)
    for job in ("ingest", "train"):
        outcome = workspace.run(f"input.path={tmp_path}/shuff*/*.parquet", job=job)
        assert outcome.exit_code == 0, outcome.stderr
    assert len(workspace.json("manifest.json")["input_files"]) == 2
    for table in ("user_factors", "item_factors"):
        assert workspace.rows(table) == small.rows(table)


@pytest.mark.remote
def test_repetition_of_a_published_run_is_read_only_when_complete(small, copy_of_small, monkeypatch):
    workspace, steps = copy_of_small, dict(mfspark.batch.pipeline.STEPS)
    published = workspace.output / "runs/run"
    before = snapshot(published)

    def assert_old_run_is_read():
        assert snapshot(published) == before
        assert workspace.current() == "run\n"

    def fail(*_):
        assert_old_run_is_read()
        raise RuntimeError("power cut")

    monkeypatch.setattr(mfspark.batch.pipeline, "STEPS", {**steps, "recommend": fail})
    outcome = workspace.run("--overwrite", "train.seed=8")
    assert (outcome.exit_code, len(outcome.errors)) == (1, 1)
    assert "mfspark: unexpected RuntimeError: power cut" in outcome.errors[0]
    assert_old_run_is_read()
    failed = workspace.json("manifest.json", "run@2")
    assert (failed["status"], failed["steps"]) == ("failed", ["ingest", "train"])
    assert failed["error"]["step"] == "recommend"
    assert workspace.run("train.seed=8").exit_code == 5

    # Going on must neither repeat what is done nor disturb readers until the end.
    def refuse(*_):
        raise AssertionError("this step is done already")

    def check_first(config, run):
        assert_old_run_is_read()
        steps["evaluate"](config, run)

    monkeypatch.setattr(
        mfspark.batch.pipeline, "STEPS", {**steps, "ingest": refuse, "train": refuse, "evaluate": check_first}
    )
    outcome = workspace.run("--resume", "train.seed=8")
    assert outcome.exit_code == 0, outcome.stderr
    assert workspace.current() == "run@2\n"
    assert snapshot(published) == before
    manifest = workspace.json("manifest.json", "run@2")
    assert (manifest["status"], manifest["config"]["train"]["seed"]) == ("complete", 8)
    assert "error" not in manifest
    assert sorted(manifest["tables"]) == TABLES
    assert workspace.rows("user_factors", "run@2") != small.rows("user_factors")
    assert len(workspace.rows("recommendations", "run@2")) == len(small.rows("recommendations"))


def test_going_on_publishes_a_run_whose_switch_failed(copy_of_small):
    (copy_of_small.output / "CURRENT").unlink()  # what a crash between the two leaves of a first run
    outcome = copy_of_small.run("--resume")
    assert outcome.exit_code == 0, outcome.stderr
    assert copy_of_small.current() == "run\n"


@pytest.mark.remote
@pytest.mark.parametrize(("job", "flags"), [("run_pipeline", ["--resume"]), ("evaluate", [])])
def test_doing_again_what_is_published_changes_nothing(copy_of_small, job, flags):
    before = snapshot(copy_of_small.output)
    outcome = copy_of_small.run(*flags, job=job)
    assert (outcome.exit_code, outcome.errors) == (0, [])
    assert "run run is already published; nothing to do" in outcome.stderr
    assert snapshot(copy_of_small.output) == before


class PowerCut(BaseException):
    """The end of the driver, as far as one process can play it."""


@pytest.mark.remote
@pytest.mark.parametrize(
    ("n_before", "checkpoint"), [(2, "train/iteration-000002.npz"), (5, "refit/iteration-000001.npz")]
)
def test_training_goes_on_from_its_last_iteration(small, tmp_path, monkeypatch, n_before, checkpoint):
    settings = ("train.max_iter=4", "train.biases=true")
    whole, cut = (small.elsewhere(tmp_path / name) for name in ("whole", "cut"))
    for job in ("ingest", "train"):
        assert whole.run(*settings, job=job).exit_code == 0
    iterate, done, cuts = AlternatingLeastSquares.iterate, [], [n_before]

    def iterate_unless_cut(solver, ratings, state, label):
        if len(done) in cuts:
            raise PowerCut
        done.append(len(state.history) + 1)
        return iterate(solver, ratings, state, label)

    monkeypatch.setattr(AlternatingLeastSquares, "iterate", iterate_unless_cut)
    with pytest.raises(PowerCut):
        cut.run(*settings)
    assert (cut.output / "runs/run/checkpoint" / checkpoint).exists()
    cuts.clear()
    outcome = cut.run("--resume", *settings)
    assert outcome.exit_code == 0, outcome.stderr
    assert done == [1, 2, 3, 4, 1, 2, 3]
    for table in ("user_factors", "item_factors"):
        assert cut.rows(table) == whole.rows(table)
    histories = [
        [{**record, "seconds": None} for record in workspace.json("metrics.json")["training"]["iterations"]]
        for workspace in (cut, whole)
    ]
    assert histories[0] == histories[1]
    assert not (cut.output / "runs/run/checkpoint").exists()
    assert not (whole.output / "runs/run/checkpoint").exists()
    assert cut.current() == "run\n"


def test_overwriting_the_train_step_begins_with_its_first_iteration(small, tmp_path, monkeypatch):
    workspace = small.elsewhere(tmp_path)
    assert workspace.run(job="ingest").exit_code == 0
    iterate, done = AlternatingLeastSquares.iterate, []

    def iterate_twice(solver, ratings, state, label):
        done.append(len(state.history) + 1)
        if len(done) == 2:
            raise PowerCut
        return iterate(solver, ratings, state, label)

    monkeypatch.setattr(AlternatingLeastSquares, "iterate", iterate_twice)
    with pytest.raises(PowerCut):
        workspace.run(job="train")
    assert workspace.run("--overwrite", job="train").exit_code == 0
    assert done == [1, 2, 1, 2, 1, 2, 3]  # the last three with all ratings


@pytest.mark.remote
def test_old_runs_are_removed_as_configured(copy_of_small):
    outcome = copy_of_small.run("output.keep_runs=1", run_id="next")
    assert outcome.exit_code == 0, outcome.stderr
    assert [path.name for path in (copy_of_small.output / "runs").iterdir()] == ["next"]
    assert copy_of_small.current() == "next\n"
    assert sorted(path.name for path in copy_of_small.output.iterdir()) == ["CURRENT", "runs"]


def test_any_column_name_and_every_item_with_drop_seen_off(spark, tmp_path):
    users, items, ratings = random_ratings(4, 6, 4, 15)
    names = {"user": "user.id of `rating`", "item": "item: rating <id>", "rating": "r.a t`e"}
    workspace = Workspace(tmp_path, columns=names, recommend={"n": 9, "drop_seen": False}, split={"holdout": 0.3})
    pq.write_table(
        pa.table(
            {
                names["user"]: pa.array(users * 5 - 7, pa.int64()),
                names["item"]: pa.array(items * 3 + 1, pa.int16()),
                names["rating"]: pa.array([Decimal(str(rating)) for rating in ratings], pa.decimal128(5, 2)),
            }
        ),
        workspace.input,
    )
    outcome = workspace.run()
    assert outcome.exit_code == 0, outcome.stderr
    recommendations = spark.read.parquet(f"{tmp_path}/out/runs/run/recommendations")
    entries = recommendations.schema["recommendations"].dataType.elementType
    assert recommendations.columns == [names["user"], "recommendations"]
    assert [(entry.name, entry.dataType.simpleString()) for entry in entries] == [
        (names["item"], "smallint"),
        ("score", "float"),
    ]
    assert spark.read.parquet(f"{tmp_path}/out/runs/run/user_factors").columns == [names["user"], "features"]
    known_items = {row[names["item"]] for row in workspace.rows("item_factors")}
    for row in workspace.rows("recommendations"):
        assert {entry[names["item"]] for entry in row["recommendations"]} == known_items
        scores = [entry["score"] for entry in row["recommendations"]]
        assert scores == sorted(scores, reverse=True)


def test_id_column_named_as_the_column_that_ingest_adds(tmp_path):
    workspace = Workspace(tmp_path, columns={"item": "part"})
    pq.write_table(pa.table({"user_id": [1, 2], "part": [20, 30], "rating": [1.0, 2.0]}), workspace.input)
    outcome = workspace.run(job="ingest")
    assert outcome.exit_code == 0, outcome.stderr
    assert [row["item_id"] for row in workspace.rows("ratings")] == [20, 30]


@pytest.mark.parametrize(
    ("user", "item", "rating"),
    [("tinyint", "bigint", "float"), ("smallint", "int", "bigint"), ("decimal(3,1)", "string", "decimal(4,1)")],
)
def test_ids_of_every_type_stay_what_they_are(spark, tmp_path, user, item, rating):
    workspace = Workspace(tmp_path)
    rows = [(1, 20, 3), (1, 30, 5), (2, 20, 1)]
    spark.createDataFrame(rows, "u int, i int, r int").selectExpr(
        f"cast(u AS {user}) AS user_id", f"cast(i AS {item}) AS item_id", f"cast(r AS {rating}) AS rating"
    ).coalesce(1).write.parquet(str(workspace.input))
    outcome = workspace.run(job="ingest")
    assert outcome.exit_code == 0, outcome.stderr
    ratings = spark.read.parquet(f"{workspace.output}/runs/run/ratings")
    assert dict(ratings.dtypes) == {"user_id": user, "item_id": item, "rating": "float", "part": "string"}
    found = workspace.rows("ratings")
    assert sorted((int(row["user_id"]), int(row["item_id"]), int(row["rating"])) for row in found) == rows


@pytest.mark.parametrize("rating", ["tinyint", "smallint", "int", "bigint", "float", "double", "decimal(38,2)"])
def test_ratings_of_every_numeric_type_become_floats(spark, rating):
    raw = spark.range(1).selectExpr("id AS user_id", "id AS item_id", f"cast(-3 AS {rating}) AS rating")
    require_rating_schema(raw, ColumnsConfig())
    ratings = accepted_ratings(raw, ColumnsConfig())
    assert ratings.schema["rating"].dataType.simpleString() == "float"
    assert ratings.first()["rating"] == -3.0


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("keep_all", [(1, 10, 1.0), (1, 10, 2.0), (1, 10, 4.5), (1, 20, 5.0),
                      (2, 10, 0.5), (2, 10, 3.0), (2, 10, 4.0)]),
        ("last", [(1, 10, 2.0), (1, 20, 5.0), (2, 10, 4.0)]),  # of equal times the greatest rating
        ("mean", [(1, 10, 2.5), (1, 20, 5.0), (2, 10, 2.5)]),
        ("max", [(1, 10, 4.5), (1, 20, 5.0), (2, 10, 4.0)]),
        ("sum", [(1, 10, 7.5), (1, 20, 5.0), (2, 10, 7.5)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", [1, -1])
def test_duplicates_are_merged_as_the_policy_says(spark, policy, expected, order):
    raw = [
        (1, 10, 4.5, 100), (2, 10, 0.5, 7), (1, 10, 1.0, 50), (1, 20, 5.0, 60), (2, 10, 4.0, 9), (1, 10, 2.0, 200),
        (2, 10, 3.0, 9), (None, 10, 9.0, 300), (1, 10, math.nan, 300),
    ]  # fmt: skip
    columns = ColumnsConfig(timestamp="at")
    ratings = spark.createDataFrame(raw[::order], "user_id int, item_id int, rating double, at long")
    merged = merge_duplicates(accepted_ratings(ratings, columns), policy)
    assert [(field.name, field.dataType.simpleString()) for field in merged.schema] == [
        ("user_id", "int"), ("item_id", "int"), ("rating", "float"), ("timestamp", "bigint")
    ]  # fmt: skip
    assert sorted((row.user_id, row.item_id, row.rating) for row in merged.collect()) == expected


@pytest.mark.parametrize("name", ["reason", "Reason"])
def test_raw_column_named_reason_is_kept(tmp_path, name):
    workspace = Workspace(tmp_path, input={"max_rejected_share": 0.5})
    raw = {"user_id": [1, None], "item_id": [3, 4], "rating": [1.0, 2.0], name: ["mine", "mine too"]}
    pq.write_table(pa.table(raw), workspace.input)
    assert workspace.run(job="ingest").exit_code == 0
    (rejected,) = workspace.rows("rejected_ratings")
    assert (rejected[name], rejected["_reason"]) == ("mine too", "user_id is null")


def test_timings_and_counts_are_valid_json(small):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    for name in ("metrics.json", "manifest.json"):
        json.loads((small.output / "runs/run" / name).read_text(), parse_constant=refuse)
