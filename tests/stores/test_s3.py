"""The whole product on s3a://: every job, and the same tables as on a local disk."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from mfspark.cli.commands import main
from mfspark.ml.model import ALSModel
from mfspark.storage.checkpoints import CheckpointFolder
from tests.builders import random_ratings, ratings_table
from tests.jobs.runner import Workspace

pytestmark = [pytest.mark.spark, pytest.mark.stores, pytest.mark.usefixtures("spark")]

RATINGS = ratings_table(*random_ratings(5, 40, 25, 600), user="user_id", item="item_id")
SETTINGS = {"split": {"holdout": 0.1}, "recommend": {"n": 3}}
TABLES = ("user_factors", "item_factors", "recommendations")


def put_ratings(bucket, first, last):
    """The ratings from one row to another as one file."""
    pq.write_table(RATINGS.slice(first, last - first), f"{bucket.path}/in/from-{first}.parquet", filesystem=bucket.s3)


def workspace_on(bucket, folder, **sections):
    paths = {"input": {"path": f"{bucket.uri}/in", "incremental": True}, "output": {"path": f"{bucket.uri}/out"}}
    return Workspace(folder, **{**SETTINGS, **paths, **sections})


def run(workspace, *arguments, **options):
    outcome = workspace.run(*arguments, **options)
    assert outcome.exit_code == 0, outcome.stderr
    return outcome


def tables_of(bucket, run_id, output="out"):
    return {name: bucket.rows(f"{output}/runs/{run_id}/{name}") for name in TABLES}


def test_nights_on_s3_leave_the_tables_that_they_leave_on_a_local_disk(bucket, tmp_path):
    there = workspace_on(bucket, tmp_path)
    (tmp_path / "local/in").mkdir(parents=True)
    here = Workspace(tmp_path / "local", **SETTINGS, input={"path": f"{tmp_path}/local/in", "incremental": True})
    for night, (first, last) in {"one": (0, 400), "two": (400, 600)}.items():
        put_ratings(bucket, first, last)
        pq.write_table(RATINGS.slice(first, last - first), tmp_path / f"local/in/from-{first}.parquet")
        for workspace in (there, here):
            run(workspace, run_id=night)
        for name, rows in tables_of(bucket, night).items():
            assert rows == here.rows(name, night), name
        assert bucket.current() is None
        assert bucket.read("out/CURRENT") == f"{night}\n"
    manifest = bucket.json("out/runs/two/manifest.json")
    assert (manifest["base"], manifest["status"], len(manifest["input_files"])) == ("one", "complete", 2)
    # The ratings of the first night were needed by the second only, and a lock is there only while a job runs.
    assert not [name for name in bucket.names("out") if name.startswith(("out/runs/one/ratings/", "out/.lock"))]
    assert run(there, run_id="three").stderr.count("no new") == 0
    assert bucket.json("out/runs/three/manifest.json")["status"] == "unchanged"
    assert bucket.read("out/CURRENT") == "two\n"


def test_go_back_repeat_and_remove_runs(bucket, tmp_path):
    put_ratings(bucket, 0, 600)
    workspace = workspace_on(bucket, tmp_path, input={"path": f"{bucket.uri}/in"}, output={
        "path": f"{bucket.uri}/out", "keep_runs": 2, "report": False,
    })  # fmt: skip
    out = type(bucket)(bucket.s3, f"{bucket.path}/out")
    run(workspace, run_id="a")
    first = out.rows("runs/a/recommendations")
    run(workspace, run_id="b")
    run(workspace, job="rollback", run_id="a")
    assert (out.current(), out.json("runs/b/manifest.json")["status"]) == ("a", "withdrawn")
    assert workspace.run("--resume", run_id="b").exit_code == 5  # it was withdrawn
    run(workspace, job="rollback", run_id="b")
    run(workspace, "--overwrite", run_id="b")
    assert (out.current(), out.runs()) == ("b@2", ["b", "b@2"])
    # Whoever opened the oldest run has the time of one run to read it.
    assert out.rows("runs/a/recommendations") == first
    run(workspace, run_id="c")
    assert (out.current(), out.runs()) == ("c", ["b@2", "c"])
    assert not [name for name in out.names() if name.startswith("runs/a/")]


def test_every_step_by_itself_and_the_jobs_over_a_published_run(bucket, tmp_path, spark):
    put_ratings(bucket, 0, 600)
    workspace = workspace_on(bucket, tmp_path)
    for job in ("ingest", "train", "recommend", "evaluate"):
        run(workspace, job=job)
    out, users = f"{bucket.uri}/out", {row["user_id"] for row in bucket.rows("out/runs/run/user_factors")}
    for repetition in range(2):  # the second time over the first
        again = ["--overwrite"] * repetition
        assert main(["lists", out, "--n", "2", "--to", f"{bucket.uri}/lists", *again]) == 0
        assert {row["user_id"] for row in bucket.rows("lists")} == users
        assert "lists/_SUCCESS" in bucket.names()
    assert main(["lists", out, "--to", f"{bucket.uri}/lists"]) == 5
    assert main(["score", out, "--pairs", f"{bucket.uri}/in", "--to", f"{bucket.uri}/scores"]) == 0
    assert len(bucket.rows("scores")) == 600
    assert main(["runs", out]) == 0
    assert not [name for name in bucket.names() if name.startswith((".lists", ".scores"))]

    from mfspark.batch.published import load

    model = load(out, spark=spark)
    for _ in range(2):
        model.write().overwrite().save(f"{bucket.uri}/model")
    again = ALSModel.load(f"{bucket.uri}/model")
    assert sorted(again.userFactors.collect()) == sorted(model.userFactors.collect())
    assert not [name for name in bucket.names() if name.startswith(".model")]


def test_tune(bucket, tmp_path):
    put_ratings(bucket, 0, 600)
    split = {"holdout": 0.1, "validation": 0.2}
    workspace = workspace_on(bucket, tmp_path, input={"path": f"{bucket.uri}/in"}, split=split, **{
        "tune": {"trials": 2}, "tune.space": {"train.rank": [1, 2]},
    })  # fmt: skip
    run(workspace, job="tune")
    assert {row["trial"] for row in bucket.rows("out/tuning/runs/run/trials")} == {1, 2}
    assert bucket.read("out/tuning/CURRENT") == "run\n"


def test_checkpoints(bucket, spark):
    folder = CheckpointFolder(spark, f"{bucket.uri}/checkpoints")
    assert folder.get() is None
    for iteration in (1, 2):
        rows = {"state.users.factors": spark.range(iteration)}
        folder.put(iteration, {"iteration": iteration}, {"factors": np.arange(3) * iteration}, rows)
    names = bucket.names("checkpoints")
    assert "checkpoints/iteration-000002.npz" in names
    assert all(name.startswith("checkpoints/iteration-000002.") for name in names)
    content, arrays, tables = folder.get()
    assert sorted(row.id for row in tables["state.users.factors"].collect()) == [0, 1]
    assert content == {"iteration": 2}
    assert arrays["factors"].tolist() == [0, 2, 4]
