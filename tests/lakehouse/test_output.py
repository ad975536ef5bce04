"""The tables of a catalog that show the current run: one commit each, with the name of the run."""

import shutil
import threading
from unittest import mock

import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from mfspark.storage.catalog import SHOWN
from mfspark.storage.catalog_tables import CatalogTables
from tests.builders import random_ratings, ratings_table
from tests.jobs.runner import Workspace

pytestmark = [pytest.mark.spark, pytest.mark.lakehouse]


@pytest.fixture
def workspace(lake, tmp_path):
    output = {"tables": lake.published, "table_format": lake.name}
    workspace = Workspace(tmp_path, output=output, columns={"user": "who"})
    pq.write_table(ratings_table(*random_ratings(3, 8, 6, 30), user="who", item="item_id"), workspace.input)
    return workspace


def run_well(workspace, *arguments, **options):
    outcome = workspace.run(*arguments, **options)
    assert outcome.exit_code == 0, outcome.stderr


def shown(lake):
    """The runs that each table shows."""
    tables = [lake.spark.table(f"{lake.published}.{name}") for name in SHOWN]
    return [{row["run_id"] for row in table.select("run_id").distinct().collect()} for table in tables]


def test_each_publication_is_one_commit_of_each_table(lake, workspace):
    run_well(workspace, run_id="one")
    assert shown(lake) == [{"one"}] * 3
    for name in SHOWN:
        rows = lake.spark.table(f"{lake.published}.{name}").drop("run_id").collect()
        assert sorted((row.asDict(True) for row in rows), key=repr) == workspace.rows(name, "one")
        assert lake.commits(name) == ["one"]
    run_well(workspace, "train.seed=5", run_id="two")
    run_well(workspace, job="rollback", run_id="one")
    assert shown(lake) == [{"one"}] * 3
    assert [lake.commits(name) for name in SHOWN] == [["one", "two", "one"]] * 3
    assert (workspace.output / "TABLES").read_text() == f"{lake.published} one\n"


def test_other_columns_are_taken_over_by_one_commit_too(lake, workspace):
    run_well(workspace, run_id="one")
    run_well(workspace, "recommend.layout=flat", "train.biases=true", run_id="two")
    table = lake.spark.table(f"{lake.published}.recommendations")
    assert table.columns == ["who", "item_id", "rank", "score", "run_id"]
    assert "bias" in lake.spark.table(f"{lake.published}.user_factors").columns
    assert [lake.commits(name) for name in SHOWN] == [["one", "two"]] * 3


def test_a_publication_keeps_how_a_table_is_partitioned(lake, workspace):
    run_well(workspace, run_id="one")
    name = f"{lake.published}.item_factors"
    columns = lake.spark.table(name).schema
    lake.sql(f"DROP TABLE {name}")
    empty = lake.spark.createDataFrame([], columns).writeTo(name)
    empty.using(lake.name).partitionedBy(F.col("item_id")).create()
    run_well(workspace, run_id="two")
    described = lake.sql(f"DESCRIBE TABLE EXTENDED {name}").collect()
    assert shown(lake) == [{"two"}] * 3
    assert any(row["col_name"] == "# Partition Information" for row in described)


def test_an_output_made_anew_is_shown_although_the_run_has_an_old_name(lake, workspace):
    run_well(workspace, run_id="one")
    shutil.rmtree(workspace.output)
    run_well(workspace, "train.seed=5", run_id="one")
    rows = lake.spark.table(f"{lake.published}.user_factors").drop("run_id").collect()
    assert sorted((row.asDict(True) for row in rows), key=repr) == workspace.rows("user_factors", "one")


class Reader(threading.Thread):
    """Reads the runs that a table shows, again and again."""

    def __init__(self, lake) -> None:
        super().__init__()
        self.spark, self.table = lake.spark, f"{lake.published}.recommendations"
        self.seen: list[object] = []
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            try:
                rows = self.spark.read.table(self.table).groupBy("run_id").count().collect()
                self.seen.append({row["run_id"]: row["count"] for row in rows})
            except Exception as problem:
                self.seen.append(str(problem)[:500])


def test_a_reader_never_sees_two_runs_in_a_table(lake, workspace):
    run_well(workspace, run_id="run-0")
    reader = Reader(lake)
    reader.start()
    for number in range(1, 5):
        run_well(workspace, run_id=f"run-{number}")
    reader.is_over = True
    reader.join()
    n_users = len(workspace.rows("recommendations", "run-0"))
    assert all(answer in [{f"run-{number}": n_users} for number in range(5)] for answer in reader.seen), reader.seen
    assert len({next(iter(answer)) for answer in reader.seen}) > 1


def test_what_a_job_did_not_commit_is_committed_by_resume(lake, workspace):
    run_well(workspace, run_id="one")
    replace = CatalogTables._replace

    def fail_at_users(self, name, run):
        if name == "user_factors":
            self.spark.sql("SELECT raise_error('no right')").collect()
        replace(self, name, run)

    with mock.patch.object(CatalogTables, "_replace", fail_at_users):
        outcome = workspace.run(run_id="two")
    assert (outcome.exit_code, workspace.current()) == (5, "two\n")
    message = (
        f"run 'two' is published, but 1 of its 3 tables could not be replaced and do not show it: {lake.published}"
    )
    assert message in outcome.errors[0]
    assert shown(lake) == [{"two"}, {"one"}, {"two"}]
    # All three of one run: those rows whose run_id is the same.
    joined = "SELECT count(*) FROM {0}.user_factors u JOIN {0}.recommendations r USING (who, run_id)"
    assert lake.sql(joined.format(lake.published)).first()[0] == 0
    run_well(workspace, "--resume", run_id="two")
    assert shown(lake) == [{"two"}] * 3
    assert lake.sql(joined.format(lake.published)).first()[0] == len(workspace.rows("recommendations", "two"))
    assert [lake.commits(name) for name in SHOWN] == [["one", "two"]] * 3  # none twice


def test_what_cannot_be_replaced_is_refused_before_the_work(lake, workspace):
    outcome = workspace.run(f"output.tables={lake.catalog}absent")
    assert outcome.exit_code == 2
    assert f"output.tables: the schema '{lake.catalog}absent' does not exist" in outcome.errors[0]
    lake.sql("CREATE SCHEMA IF NOT EXISTS spark_catalog.plain")
    lake.sql("CREATE TABLE spark_catalog.plain.item_factors (id INT) USING parquet")
    try:
        outcome = workspace.run("--overwrite", "output.tables=spark_catalog.plain")
        assert outcome.exit_code == 2
        assert f"is a table of parquet; expected a table of {lake.name}, or nothing" in outcome.errors[0]
        other = {"delta": "iceberg", "iceberg": "delta"}[lake.name]
        outcome = workspace.run("--overwrite", f"output.table_format={other}")
        assert outcome.exit_code == 2
        assert f"cannot create and drop a table of {other} in '{lake.published}'" in outcome.errors[0]
        assert f"with the packages and the catalog of {other}" in outcome.errors[0]
    finally:
        lake.sql("DROP SCHEMA spark_catalog.plain CASCADE")
    assert workspace.current() is None
