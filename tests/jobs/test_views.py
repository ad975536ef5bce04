"""The views of a catalog, as jobs leave them."""

import pyarrow.parquet as pq
import pytest

from mfspark.storage.catalog import SHOWN
from mfspark.storage.views import Views
from tests.builders import random_ratings, ratings_table
from tests.jobs.runner import Workspace

pytestmark = pytest.mark.spark


@pytest.fixture
def workspace(spark, tmp_path):
    workspace = Workspace(tmp_path, output={"views": "lists"}, columns={"user": "who"})
    pq.write_table(ratings_table(*random_ratings(3, 8, 6, 30), user="who", item="item_id"), workspace.input)
    yield workspace
    spark.sql("DROP SCHEMA IF EXISTS lists CASCADE")


def shown(spark):
    return {row["run_id"] for name in SHOWN for row in spark.table(f"lists.{name}").collect()}


def test_views_show_the_current_run(spark, workspace, monkeypatch):
    outcome = workspace.run()
    assert outcome.exit_code == 2
    assert "output.views: the schema 'lists' does not exist" in outcome.errors[0]
    assert workspace.json("manifest.json")["steps"] == []
    spark.sql("CREATE SCHEMA lists")
    assert workspace.run("--resume").exit_code == 0
    rows = spark.table("lists.recommendations").drop("run_id").orderBy("who").collect()
    assert [row.asDict(True) for row in rows] == sorted(workspace.rows("recommendations"), key=lambda row: row["who"])
    assert shown(spark) == {"run"}

    with monkeypatch.context() as patch:
        patch.setattr(Views, "_replace", lambda *_: spark.sql("SELECT raise_error('no right')").collect())
        outcome = workspace.run(run_id="second")
    assert outcome.exit_code == 5
    assert "run 'second' is published, but 3 of its 3 views could not be replaced" in outcome.errors[0]
    assert "no right" in outcome.errors[0]
    assert (workspace.current(), shown(spark)) == ("second\n", {"run"})
    assert workspace.run("--resume", run_id="second").exit_code == 0
    assert shown(spark) == {"second"}

    assert workspace.run(job="rollback", run_id="run").exit_code == 0
    assert (workspace.current(), shown(spark)) == ("run\n", {"run"})


def test_an_input_without_new_files_also_catches_up(spark, workspace, monkeypatch):
    spark.sql("CREATE SCHEMA lists")
    with monkeypatch.context() as patch:
        patch.setattr(Views, "replace", lambda _: None)  # the job was killed before
        assert workspace.run("input.incremental=true").exit_code == 0
    assert workspace.run("input.incremental=true", run_id="second").exit_code == 0
    assert (workspace.json("manifest.json", "second")["status"], shown(spark)) == ("unchanged", {"run"})
