"""What the outside sees of a run: names of Spark's jobs, JSON lines, MLflow, the file for Prometheus."""

import json
import re
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mfspark.batch.pipeline
from tests.builders import random_ratings
from tests.jobs.runner import Workspace

pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
pytest.importorskip("prometheus_client", reason="the extra openmetrics is not installed")

pytestmark = [pytest.mark.spark, pytest.mark.classic, pytest.mark.usefixtures("spark")]

STEPS = ["ingest", "train", "recommend", "evaluate"]


def spark_jobs(spark):
    """Group and description of every Spark job so far, by its number."""
    jobs = spark.sparkContext._jsc.sc().statusStore().jobsList(None)
    return {
        job.jobId(): tuple(value.get() if value.isDefined() else None for value in (job.jobGroup(), job.description()))
        for job in (jobs.apply(place) for place in range(jobs.size()))
    }


@pytest.fixture(scope="module")
def tracked(spark_session, tmp_path_factory):
    """A run that is published, then one of the same output that fails; read only."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("tracked")
    store = f"file://{folder}/mlflow"
    workspace = Workspace(
        folder,
        split={"holdout": 0.3},
        train={"engine": "rdd"},
        track={"mlflow_uri": store, "openmetrics_path": str(folder / "mfspark.prom")},
    )
    users, items, ratings = random_ratings(0, 7, 5, 22)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "rating": ratings}), workspace.input)
    before = spark_jobs(spark_session)

    def fail(*_):
        raise RuntimeError("power\ncut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        good = workspace.run("--log-format=json", run_id="good")
        assert good.exit_code == 0, good.stderr
        jobs = {number: names for number, names in spark_jobs(spark_session).items() if number not in before}
        prom = (folder / "mfspark.prom").read_text()
        patch.setitem(mfspark.batch.pipeline.STEPS, "train", fail)
        bad = workspace.run("--log-format=json", run_id="bad")
        client = MlflowClient(store)
        logged = client.search_runs([client.get_experiment_by_name("mfspark").experiment_id])
    return SimpleNamespace(
        workspace=workspace,
        good=good,
        bad=bad,
        jobs=jobs,
        prom=(prom, (folder / "mfspark.prom").read_text()),
        mlflow={run.info.run_name: run for run in logged},
    )


def test_every_job_of_a_step_says_what_it_does(spark, tracked):
    assert {group for group, _ in tracked.jobs.values()} == {*STEPS}
    for group, description in tracked.jobs.values():
        assert description.startswith(f"{group}: ")
    assert {description for _, description in tracked.jobs.values()} >= {
        "ingest: write rejected_ratings",
        "ingest: write ratings",
        "train: index",
        "train: iteration 1/2, items",
        "train: iteration 2/2, users",
        "train: write user_factors",
        "recommend: write recommendations",
        "evaluate: read and count",
    }
    assert set(spark.sparkContext.statusTracker().getJobIdsForGroup("recommend")) & set(tracked.jobs)
    # The caller's own names are back.
    assert spark.sparkContext.getLocalProperty("spark.jobGroup.id") is None


def test_every_line_is_json_and_the_numbers_are_those_of_the_metrics(tracked):
    lines = [json.loads(line) for line in tracked.good.stderr.splitlines()]
    assert {"ts", "level", "logger", "msg", "context"} == {key for line in lines for key in line}
    iterations = [line["context"] for line in lines if "max_iter" in line["context"]]
    metrics = tracked.workspace.json("metrics.json", "good")
    recorded = metrics["training"]["iterations"] + metrics["refit"]["iterations"]
    for key in ("iteration", "objective", "rmse", "seconds"):
        assert [context[key] for context in iterations] == [record[key] for record in recorded]
    assert [line["context"]["step"] for line in lines if "step" in line["context"]] == STEPS


def test_json_lines_are_of_the_schema_that_spark_has_for_its_own(spark, tracked, tmp_path):
    from pyspark.logger import SPARK_LOG_SCHEMA

    (tmp_path / "log").write_text(tracked.good.stderr + tracked.bad.stderr)
    lines = spark.read.schema(SPARK_LOG_SCHEMA).json(str(tmp_path / "log"))
    (failed,) = lines.where("level = 'ERROR'").collect()
    assert failed["context"]["exit_code"] == "1"
    assert failed["exception"]["msg"] == "power\ncut"
    assert failed["exception"]["stacktrace"][-1]["method"] == "fail"
    objectives = lines.where("context.max_iter IS NOT NULL").selectExpr("double(context.objective) AS o").collect()
    assert all(row.o > 0 for row in objectives)
    assert len(objectives) == 2 + 3  # of the judged training and of the refit


def test_failed_job_ends_with_one_line_of_json(tracked):
    assert tracked.bad.exit_code == 1
    last = json.loads(tracked.bad.stderr.splitlines()[-1])
    assert re.fullmatch(r"mfspark: unexpected RuntimeError: power \(log: .*\)", last["msg"])


def test_mlflow_has_both_runs(tracked):
    metrics, manifest = (tracked.workspace.json(name, "good") for name in ("metrics.json", "manifest.json"))
    good, bad = tracked.mlflow["good"], tracked.mlflow["bad"]
    assert (good.info.status, bad.info.status) == ("FINISHED", "FAILED")
    assert good.data.params["train.rank"] == "2"
    assert good.data.params["output.path"] == manifest["config"]["output"]["path"]
    assert good.data.metrics["holdout.rmse"] == metrics["holdout"]["rmse"]
    assert good.data.metrics["iteration.objective"] == metrics["training"]["iterations"][-1]["objective"]
    assert bad.data.metrics["rows.read"] == 22
    assert bad.data.tags["mfspark.error"] == "RuntimeError: power\ncut"


def test_prometheus_is_told_of_success_and_failure(tracked):
    good, bad = ({line.partition("{")[0]: line for line in text.splitlines()} for text in tracked.prom)
    output = f'{{output="{tracked.workspace.output}"}}'
    assert good["mfspark_job_success"] == f"mfspark_job_success{output} 1.0"
    assert bad["mfspark_job_success"] == f"mfspark_job_success{output} 0.0"
    name = "mfspark_last_success_timestamp_seconds"
    assert good[name] == bad[name]
    assert good["mfspark_rows_read"] == bad["mfspark_rows_read"] == f"mfspark_rows_read{output} 22.0"


def test_other_tracking_does_not_keep_a_run_from_going_on(tracked):
    outcome = tracked.workspace.run("--resume", "track.mlflow_uri=http://127.0.0.1:9", "train.rank=3", run_id="bad")
    assert outcome.exit_code == 2
    assert "another configuration: train.rank" in outcome.errors[0]


def test_library_that_is_missing_is_told_before_spark_starts(tracked, monkeypatch):
    monkeypatch.setattr("mfspark.engine.session.open_session", lambda *_: pytest.fail("Spark was started"))
    monkeypatch.setattr("mfspark.tracking.tracked.find_spec", lambda _: None)
    outcome = tracked.workspace.run(run_id="next")
    assert outcome.exit_code == 2
    assert "track.mlflow_uri needs the library mlflow" in outcome.errors[0]
