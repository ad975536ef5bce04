"""Views of a catalog: what readers see meanwhile, what is refused, and what a failure leaves."""

import json
import subprocess
import sys

import pytest

from mfspark.config.sections import InputConfig, OutputConfig, PipelineConfig
from mfspark.errors import ConfigError, OutputError
from mfspark.storage.catalog import SHOWN
from mfspark.storage.lock import lock_output
from mfspark.storage.runs import open_run
from mfspark.storage.views import Views
from tests.conftest import PROJECT

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def hive(tmp_path_factory):
    """What readers of a Hive metastore saw through ten publications and a rollback."""
    folder = tmp_path_factory.mktemp("hive")
    done = subprocess.run(
        [sys.executable, "-m", "tests.storage.catalog", str(folder)],
        cwd=PROJECT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "seen.json").read_text())


def test_readers_never_see_an_error(hive):
    assert hive["problems"] == [[], []]


def test_each_query_reads_one_run(hive):
    of_one, of_two = hive["answers"]
    seen = []
    for ((number, run, n_rows),) in of_one:  # one row: both rows of the table are of one run
        assert (run, n_rows) == (f"run-{number}", 2)
        seen.append(number)
    # In their order, none left out, and at the end the one before the last.
    assert [number for i, number in enumerate(seen) if i == 0 or number != seen[i - 1]] == [*range(11), 9]
    for answer in of_two:  # between the replacements of two views, a join by run finds nothing
        assert all(ours == theirs and run == f"run-{ours}" for ours, theirs, run in answer)
    assert sum(len(answer) == 2 for answer in of_two) >= 10


def test_old_runs_are_removed_and_other_columns_are_seen(hive):
    assert hive["runs"] == ["run-10", "run-9"]
    assert hive["views"] == "lists run-9\n"
    assert hive["columns"] == ["user_id", "number", "bias", "run_id"]


@pytest.fixture
def schema(spark):
    spark.sql("CREATE SCHEMA published")
    yield "published"
    spark.sql("DROP SCHEMA published CASCADE")


@pytest.fixture
def publish(spark, tmp_path, schema):
    def publish_run(name, keep_runs=2, views=schema):
        output = tmp_path / "out"
        config = PipelineConfig(InputConfig("in"), OutputConfig(str(output), keep_runs=keep_runs, views=views))
        with lock_output(spark, str(output), name) as lock:
            run = open_run(spark, config, name, "resume", lock)
            if run.is_published:
                run.update_catalogs()
                return
            for table in SHOWN:
                spark.createDataFrame([(name,)], "number string").write.parquet(run.path(table), mode="overwrite")
            run.publish()

    return publish_run


def shown(spark, name="recommendations", schema="published"):
    return {(row["number"], row["run_id"]) for row in spark.table(f"{schema}.{name}").collect()}


def runs(tmp_path):
    return sorted(path.name for path in (tmp_path / "out/runs").iterdir())


def refuse(monkeypatch, spark, refused):
    """Let statements about a view fail, as if its owner were another."""
    sql = spark.sql

    def run(statement, *arguments):
        if f"VIEW `published`.`{refused}`" in statement and "EXPLAIN" not in statement:
            raise_error = sql("SELECT raise_error('Permission denied')")
            return raise_error.collect()
        return sql(statement, *arguments)

    monkeypatch.setattr(spark, "sql", run)


def test_a_view_that_is_not_replaced_is_named_and_replaced_later(spark, tmp_path, publish, monkeypatch):
    publish("a")
    publish("b")
    with monkeypatch.context() as patch:
        refuse(patch, spark, "user_factors")
        for name in ("c", "d"):
            with pytest.raises(
                OutputError, match=r"but 1 of its 3 views .*: published\.user_factors: .*Permission"
            ) as e:
                publish(name)
            assert str(e.value).startswith(f"run '{name}' is published, ")
    assert (tmp_path / "out/CURRENT").read_text() == "d\n"
    # The others are replaced, and the run that the view still names is kept, although there are two newer ones.
    assert shown(spark, "item_factors") == {("d", "d")}
    assert shown(spark, "user_factors") == {("b", "b")}
    assert runs(tmp_path) == ["a", "b", "c", "d"]
    assert (tmp_path / "out/VIEWS").read_text() == "published d recommendations item_factors\n"
    replaced = []
    with monkeypatch.context() as patch:
        replace = Views._replace
        patch.setattr(Views, "_replace", lambda self, name, run: (replaced.append(name), replace(self, name, run)))
        publish("d")  # --resume
    assert replaced == ["user_factors"]
    assert all(shown(spark, name) == {("d", "d")} for name in SHOWN)
    publish("e")
    assert runs(tmp_path) == ["d", "e"]


def test_the_job_cut_off_before_the_views_keeps_what_they_name(spark, tmp_path, publish, monkeypatch):
    publish("a")
    with monkeypatch.context() as patch:
        patch.setattr(Views, "replace", lambda _: None)
        publish("b")
        publish("c")
    assert runs(tmp_path) == ["a", "b", "c"]
    assert shown(spark) == {("a", "a")}
    publish("d")
    assert shown(spark) == {("d", "d")}


@pytest.mark.parametrize(
    ("schema_name", "message"),
    [
        ("absent", r"output\.views: the schema 'absent' does not exist; .*create it with CREATE SCHEMA absent"),
        ("nowhere.published", r"output\.views: .* '?nowhere"),
        ("taken", r"output\.views: 'taken\.item_factors' is a table; expected a view, .*drop the table"),
    ],
)
def test_a_schema_that_cannot_have_the_views_is_refused_before_the_work(spark, tmp_path, schema_name, message):
    spark.sql("CREATE SCHEMA taken")
    spark.sql("CREATE TABLE taken.item_factors (id int) USING parquet")
    try:
        with lock_output(spark, str(tmp_path), "a job") as lock, pytest.raises(ConfigError, match=message):
            Views(spark, lock.files, str(tmp_path), schema_name).require_replaceable()
    finally:
        spark.sql("DROP SCHEMA taken CASCADE")


def test_a_catalog_without_views_is_refused_before_the_work(spark, tmp_path):
    spark.conf.set("spark.sql.catalog.jdbc", "org.apache.spark.sql.execution.datasources.v2.jdbc.JDBCTableCatalog")
    spark.conf.set("spark.sql.catalog.jdbc.url", f"jdbc:derby:{tmp_path}/derby;create=true")
    spark.conf.set("spark.sql.catalog.jdbc.driver", "org.apache.derby.jdbc.EmbeddedDriver")
    message = r"the catalog of 'jdbc\.APP' has no views over files: .*spark_catalog"
    with lock_output(spark, str(tmp_path), "a job") as lock, pytest.raises(ConfigError, match=message):
        Views(spark, lock.files, str(tmp_path), "jdbc.APP").require_replaceable()


@pytest.mark.parametrize("name", ["published", "spark_catalog.published"])
def test_a_catalog_in_memory_is_told(spark, tmp_path, publish, caplog, name):
    with lock_output(spark, str(tmp_path), "a job") as lock:
        Views(spark, lock.files, str(tmp_path), name).require_replaceable()
    assert "the catalog of this session is in memory, so the views end with the session" in caplog.text
    publish("a", views=name)
    assert shown(spark, schema=name) == {("a", "a")}
