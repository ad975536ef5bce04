"""The report as a run leaves it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mfspark.batch.pipeline
from tests.builders import random_ratings
from tests.jobs.runner import Workspace

pytest.importorskip("plotly", reason="the extra report is not installed")

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]


@pytest.fixture(scope="module")
def published(spark_session, tmp_path_factory):  # noqa: ARG001
    """Two runs with odd names of columns, the second beside the first as the current one; read only."""
    names = {"user": "user.id of `rating`", "item": "item: rating <id>"}
    workspace = Workspace(
        tmp_path_factory.mktemp("report"),
        columns=names, split={"holdout": 0.2, "validation": 0.2}, output={"report": True},
    )  # fmt: skip
    users, items, ratings = random_ratings(0, 7, 5, 30)
    ids = [f"<b>{user}" for user in users]
    pq.write_table(pa.table({names["user"]: ids, names["item"]: items, "rating": ratings}), workspace.input)
    for run_id in ("first", "second"):
        outcome = workspace.run(run_id=run_id)
        assert outcome.exit_code == 0, outcome.stderr
        assert "no report" not in outcome.stderr
    return workspace


def report_of(workspace, run_id):
    return (workspace.output / "runs" / run_id / "report.html").read_text(encoding="utf-8")


def test_report_is_of_its_run_beside_the_current_one(published):
    first, second = (report_of(published, run_id) for run_id in ("first", "second"))
    assert "Run first" in first
    assert "This is the first run of its output" in first
    assert "Change against the current run, first" in second
    rmse = published.json("metrics.json", "second")["holdout"]["rmse"]
    assert f"{rmse:.4f}" in second
    assert "User &lt;b&gt;" in second
    assert 'id="plot-matrix"' in second
    assert "Set split.validation" not in second


def test_report_is_not_made_where_nobody_wants_one(published):
    assert published.run("output.report=false", run_id="third").exit_code == 0
    assert not (published.output / "runs/third/report.html").exists()


@pytest.mark.parametrize("run_id", ["failing", "missing"])
def test_run_is_published_without_a_report_and_says_why(published, monkeypatch, run_id):
    if run_id == "failing":
        monkeypatch.setattr("mfspark.report.page.page", lambda *_: 1 / 0)
        why = "no report.html: division by zero"
    else:
        monkeypatch.setattr(mfspark.batch.pipeline, "find_spec", lambda _: None)
        why = "no report.html: its libraries are not installed; pip install 'mfspark[report]'"
    outcome = published.run(run_id=run_id)
    assert outcome.exit_code == 0, outcome.stderr
    assert why in outcome.stderr
    assert published.current() == f"{run_id}\n"
    assert published.json("manifest.json", run_id)["status"] == "complete"
    assert not (published.output / "runs" / run_id / "report.html").exists()
