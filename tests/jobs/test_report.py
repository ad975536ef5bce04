"""The report as a run leaves it."""

import json
import shutil
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

import mfspark.batch.report
from mfspark.cli.commands import main
from tests.builders import random_ratings
from tests.jobs.runner import Workspace, snapshot

pytest.importorskip("jinja2", reason="the extra report is not installed")

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]


@pytest.fixture(scope="module")
def published(spark_session, tmp_path_factory):  # noqa: ARG001
    """Two runs with odd names of columns, the second beside the first as the current one; read only.

    A third run, `next`, has done all steps and is not published.
    """
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
    with mock.patch.object(mfspark.batch.pipeline, "_publish"):
        assert workspace.run(run_id="next").exit_code == 0
    return workspace


@pytest.fixture
def publish_next(published, tmp_path):
    """Report on the run `next` with more settings and publish it, in a copy of the output."""
    workspace = published.elsewhere(tmp_path / "copy")
    shutil.copytree(published.output, workspace.output)

    def publish(*settings):
        return workspace, workspace.run("--resume", *settings, run_id="next")

    return publish


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
    assert "<h3>Predictions</h3>" in second
    assert '<p class="lead">Published. The model is ' in second
    assert "Set split.validation" not in second


def test_report_is_not_made_where_nobody_wants_one(publish_next):
    workspace, outcome = publish_next("output.report=false")
    assert outcome.exit_code == 0, outcome.stderr
    assert not (workspace.output / "runs/next/report.html").exists()


@pytest.mark.parametrize("what", ["failing", "missing"])
def test_run_is_published_without_a_report_and_says_why(publish_next, monkeypatch, what):
    if what == "failing":
        monkeypatch.setattr("mfspark.report.page.page", lambda *_: 1 / 0)
        why = "no report.html: division by zero"
    else:
        monkeypatch.setattr(mfspark.batch.report, "find_spec", lambda _: None)
        why = "no report.html: its library is not installed; pip install 'mfspark[report]'"
    workspace, outcome = publish_next()
    assert outcome.exit_code == 0, outcome.stderr
    assert why in outcome.stderr
    assert workspace.current() == "next\n"
    assert workspace.json("manifest.json", "next")["status"] == "complete"
    assert not (workspace.output / "runs/next/report.html").exists()


def test_report_of_a_held_run_says_so_until_the_run_is_published(publish_next):
    rule = "users >= 100"
    workspace, outcome = publish_next(f'gate.hold=["{rule}"]')
    assert outcome.exit_code == 6
    held = report_of(workspace, "next")
    assert '<header class="held">' in held
    assert "<b>Held by users &gt;= 100</b>: number of users is 7, below 100" in held
    assert workspace.run("--resume", f'gate.accept=["{rule}"]', run_id="next").exit_code == 0
    assert '<p class="lead">Published.' in report_of(workspace, "next")


NAMES = ["Zero & <One>", "Two", "Three", "Four", "Five", "Six", "Seven"]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_report_shows_names_of_items(published, publish_next, tmp_path, kind):
    items = pq.read_table(published.input)["item: rating <id>"].unique().sort()
    table = pa.table({"key": items, "the title": [NAMES[place] for place in range(len(items))]})
    if kind == "csv":
        csv.write_csv(table, tmp_path / "names")
        more = ', format = "csv", options = { header = true }'
    else:
        pq.write_table(table, tmp_path / "names")
        more = ""
    path = json.dumps(str(tmp_path / "names"))
    names = f'report.item_names={{ path = {path}, id = "key", name = "the title"{more} }}'
    # Names are no part of a run's content: whoever resumes a run may have others.
    workspace, outcome = publish_next(names)
    assert outcome.exit_code == 0, outcome.stderr
    assert "report.html" not in outcome.stderr
    report = report_of(workspace, "next")
    assert "<td>Zero &amp; &lt;One&gt;</td>" in report
    assert f"<td>{items[0]}</td>" in report_of(published, "second")
    assert f"<td>{items[0]}</td>" not in report


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"path": "absent"}, "names 'absent' does not exist; expected parquet files; correct report.item_names.path"),
        ({"name": "titel"}, "column 'titel' is missing; did you mean 'title'?"),
        ({"path": "broken"}, "the source of report.item_names '"),
        ({"id": "title"}, "column 'title' of report.item_names has none of the 5 items in the report, such as '"),
    ],
)
def test_names_that_cannot_be_used_cost_no_run(publish_next, tmp_path, change, why):
    pq.write_table(pa.table({"key": [-1], "title": ["one"]}), tmp_path / "names")
    (tmp_path / "broken").write_text("key,title")
    keys = {"path": "names", "id": "key", "name": "title"} | change
    if keys["path"] != "absent":
        keys["path"] = str(tmp_path / keys["path"])
    names = ", ".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    workspace, outcome = publish_next(f"report.item_names={{ {names} }}")
    assert outcome.exit_code == 0, outcome.stderr
    assert "report.html shows ids" in outcome.stderr
    assert why in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "<h3>Predictions</h3>" in report_of(workspace, "next")


@pytest.fixture
def moved(published, tmp_path):
    """A copy of the output, which a test may change, over the same input."""
    shutil.copytree(published.output, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("run_id", ["first", "second"])
def test_a_report_made_anew_is_the_one_that_the_run_wrote(published, moved, run_id):
    before = snapshot(moved)
    page = moved / "runs" / run_id / "report.html"
    page.unlink()
    # With an earlier one beside it, which it must not be compared with.
    assert main(["report", str(moved), run_id]) == 0
    assert page.read_text(encoding="utf-8") == report_of(published, run_id)
    assert snapshot(moved) == before


def test_a_report_goes_to_a_file_that_is_not_overwritten_unasked(published, tmp_path, capsys):
    arguments = ["report", str(published.output), "first", "--to", str(tmp_path / "page.html")]
    before = snapshot(published.output)
    assert main(arguments) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == report_of(published, "first")
    assert main(arguments) == 5
    assert "page.html' exists already; write elsewhere, or replace it with --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert snapshot(published.output) == before


def test_a_report_of_an_input_that_has_changed_says_so(tmp_path, capsys):
    workspace = Workspace(tmp_path)
    users, items, ratings = random_ratings(0, 7, 5, 30)
    table = pa.table({"user_id": users, "item_id": items, "rating": ratings})
    pq.write_table(table, workspace.input)
    assert workspace.run().exit_code == 0
    pq.write_table(table.slice(0, 20), workspace.input)
    assert main(["report", str(workspace.output)]) == 0
    assert "the input has 20 ratings now, it had 30 when run run read it" in capsys.readouterr().err
    workspace.input.unlink()
    assert main(["report", str(workspace.output)]) == 3
    assert "does not exist" in capsys.readouterr().err


def test_an_incremental_run_has_kept_the_ratings_of_its_report(tmp_path, capsys):
    workspace = Workspace(tmp_path, input={"incremental": True}, output={"report": True})
    users, items, ratings = random_ratings(0, 7, 5, 30)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "rating": ratings}), workspace.input)
    assert workspace.run().exit_code == 0
    workspace.input.unlink()
    assert main(["report", str(workspace.output), "--to", str(tmp_path / "page.html")]) == 0
    assert "ratings now" not in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == report_of(workspace, "run")


def test_no_report_where_there_is_no_library_or_no_run(published, tmp_path, monkeypatch, capsys):
    assert main(["report", str(tmp_path / "absent")]) == 5
    assert "has no published run" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()
    monkeypatch.setattr(mfspark.batch.report, "find_spec", lambda _: None)
    assert main(["report", str(published.output)]) == 2
    assert "its library is not installed; pip install 'mfspark[report]'" in capsys.readouterr().err
