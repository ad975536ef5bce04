"""The two layouts of recommendations, and columns of items, from jobs to readers."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mfspark
from mfspark import evaluation
from mfspark.cli.commands import main
from tests.builders import random_ratings, ratings_table
from tests.jobs.runner import Workspace

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(3, 9, 8, 40)
COLUMNS = '{ path = %s, id = "key", columns = ["title", "price"] }'


@pytest.fixture(scope="module")
def workspace(spark_session, tmp_path_factory):  # noqa: ARG001
    """Two runs that differ in the layout alone."""
    workspace = Workspace(
        tmp_path_factory.mktemp("lists"), columns={"user": "who", "item": "what"}, recommend={"n": 3},
        split={"holdout": 0.2}, train={"refit": False}, output={"report": True},
    )  # fmt: skip
    pq.write_table(ratings_table(USERS, ITEMS, VALUES, user="who", item="what"), workspace.input)
    about = {"key": [str(item) for item in range(7)], "title": [f"item {item}" for item in range(7)]}
    pq.write_table(pa.table(about | {"price": [item / 2 for item in range(7)]}), workspace.folder / "items.parquet")
    for layout in ("nested", "flat"):
        outcome = workspace.run("recommend.fallback=popular", f"recommend.layout={layout}", run_id=layout)
        assert outcome.exit_code == 0, outcome.stderr
        assert "no report" not in outcome.stderr
    return workspace


def of_items(workspace):
    return f"recommend.items={COLUMNS % json.dumps(str(workspace.folder / 'items.parquet'))}"


def flattened(nested, run):
    return [
        {"who": row["who"], "what": entry.pop("what"), "rank": place, **entry, "run_id": run}
        for row in nested
        for place, entry in enumerate(row["recommendations"], 1)
    ]


def in_order(rows):
    return sorted(rows, key=lambda row: (row["who"], row.get("rank")))


def test_both_layouts_say_the_same(spark, workspace):
    flat = workspace.rows("recommendations", "flat")
    assert in_order(flat) == in_order(flattened(workspace.rows("recommendations", "nested"), "flat"))
    assert list(flat[0]) == ["who", "what", "rank", "score", "is_fallback", "run_id"]
    assert mfspark.read(spark, str(workspace.output), "recommendations").count() == len(flat) > 20


def test_readers_take_either_layout(spark, workspace, capsys):
    lists, judged, reports = [], [], []
    relevant = spark.read.parquet(str(workspace.input))
    for run in ("nested", "flat"):
        lists.append(workspace.json("metrics.json", run)["lists"])
        table = mfspark.read(spark, str(workspace.output), "recommendations", run)
        names = {"user": "who", "item": "what"}
        others = relevant.withColumn("what", relevant["what"] + 1)  # the lists have nothing that was rated
        found = evaluation.ranking_metrics(table, others, 3, **names)
        judged.append(found | evaluation.catalogue_metrics(table, relevant, 3, **names))
        report = (workspace.output / "runs" / run / "report.html").read_text()
        reports.append(re.findall("<td.*?</td>", report.partition("<h2>Recommendations</h2>")[2].partition("<h2>")[0]))
    assert lists[0] == lists[1]
    assert judged[0] == pytest.approx(judged[1])
    assert judged[0]["ndcg_at_3"] > 0
    assert reports[0] == reports[1] != []
    shown = []
    for run in ("nested", "flat"):
        assert main(["show", str(workspace.output), run]) == 0
        shown.append(capsys.readouterr().out.partition("\nRecommendations\n")[2])
    assert shown[0] == shown[1] != ""
    assert main(["diff", str(workspace.output), "nested", "flat"]) == 0
    text = capsys.readouterr().out
    assert "share of lists that are the same" in text
    assert text.rstrip().endswith(" 1")


@pytest.mark.parametrize("layout", ["nested", "flat"])
def test_recommendations_get_columns_of_items(workspace, layout):
    outcome = workspace.run(of_items(workspace), f"recommend.layout={layout}", run_id=f"items-{layout}")
    assert outcome.exit_code == 0, outcome.stderr
    rows = workspace.rows("recommendations", f"items-{layout}")
    rows = flattened(rows, "items-nested") if layout == "nested" else rows
    assert {row["what"] for row in rows} > {6, 7}
    for row in rows:
        item = row["what"]
        expected = (f"item {item}", item / 2) if item < 7 else (None, None)
        assert (row["title"], row["price"]) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "absent"}, "the source of recommend.items 'absent' does not exist"),
        ({"columns": ["titel"]}, "column 'titel' is missing; did you mean 'title'?"),
        ({"id": "title"}, None),
        ({"id": "twice"}, "column 'twice' of recommend.items has the item 1 in 7 rows"),
    ],
)
def test_items_that_cannot_be_used_fail_the_run_before_training(workspace, tmp_path, change, message):
    table = pq.read_table(workspace.folder / "items.parquet").append_column("twice", [[1] * 7])
    pq.write_table(table, tmp_path / "items.parquet")
    keys = {"path": str(tmp_path / "items.parquet"), "id": "key", "columns": ["title"]} | change
    run_id = tmp_path.name
    text = ", ".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    outcome = workspace.run(f"recommend.items={{ {text} }}", run_id=run_id)
    if message is None:  # texts that are no numbers name no item
        assert outcome.exit_code == 0, outcome.stderr
        rows = workspace.rows("recommendations", run_id)
        assert {entry["title"] for row in rows for entry in row["recommendations"]} == {None}
        return
    assert outcome.exit_code == 3
    assert message in outcome.errors[0]
    assert workspace.json("manifest.json", run_id)["steps"] == []


def test_commands_write_what_the_run_writes(workspace, tmp_path, capsys):
    def lists(*arguments):
        assert main(["lists", str(workspace.output), "--seen", str(workspace.input), "--n", "3", *arguments]) == 0
        capsys.readouterr()
        return in_order(pq.read_table(arguments[-1]).to_pylist())

    own = [
        {key: value for key, value in row.items() if key != "is_fallback"}
        for row in workspace.rows("recommendations", "flat")
        if not row["is_fallback"]
    ]
    found = lists("--run", "flat", "--to", str(tmp_path / "flat"))
    assert [{**row, "score": None} for row in found] == [{**row, "score": None} for row in in_order(own)]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in in_order(own)])
    nested = lists("--run", "flat", "--layout", "nested", "--to", str(tmp_path / "nested"))
    assert in_order(flattened(nested, "flat")) == found
