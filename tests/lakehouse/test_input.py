"""The ratings in a table of Delta or Iceberg: which version runs read, and what changed since the run before."""

import random

import pyarrow.parquet as pq
import pytest

from tests.jobs.runner import Workspace
from tests.lakehouse.lake import COLUMNS

pytestmark = [pytest.mark.spark, pytest.mark.lakehouse]

_RANDOM = random.Random(4)
FIRST = [
    (f"u{user}", f"i{item}", float(_RANDOM.randint(1, 5)), _RANDOM.randint(1, 9))
    for user in range(8) for item in range(6) if (user + item) % 3
]  # fmt: skip
RUN_ONE, RUN_TWO = "one", "two"


@pytest.fixture
def workspace(lake, tmp_path):
    """An incremental job on the table, which has the first ratings."""
    lake.create(FIRST)
    workspace = Workspace(tmp_path, input={"incremental": True}, columns={"timestamp": "at"})
    text = workspace.config.read_text()
    workspace.config.write_text(text.replace(f'path = "{workspace.input}"', f'table = "{lake.ratings}"', 1))
    return workspace


def run_well(workspace, *arguments, run_id):
    outcome = workspace.run(*arguments, run_id=run_id)
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.stderr


def ratings_of(workspace, run_id):
    """The ratings that a run has, as rows of the table."""
    table = pq.read_table(
        workspace.output / "runs" / run_id / "ratings", columns=["user_id", "item_id", "rating", "timestamp"]
    )
    return sorted(zip(*table.to_pydict().values(), strict=True))


def counts(workspace, run_id):
    rows = workspace.json("metrics.json", run_id)["rows"]
    return rows["read"], rows["carried"]


def version_of(workspace, run_id):
    return workspace.json("manifest.json", run_id)["input_version"]["number"]


def test_a_run_applies_what_was_inserted_updated_and_deleted(lake, workspace):
    run_well(workspace, run_id=RUN_ONE)
    assert (ratings_of(workspace, RUN_ONE), counts(workspace, RUN_ONE)) == (sorted(FIRST), (len(FIRST), 0))
    assert version_of(workspace, RUN_ONE) == lake.newest()
    new = [("u1", "i0", 2.0, 10), ("new", "i5", 3.0, 11), ("gone", "i5", 1.0, 11)]
    lake.insert(new)
    lake.run_sql("UPDATE {} SET rating = 9, at = 12 WHERE user_id = 'u0'")
    lake.run_sql("DELETE FROM {} WHERE user_id IN ('u3', 'gone')")
    expected = [row if row[0] != "u0" else (*row[:2], 9.0, 12) for row in FIRST + new if row[0] not in ("u3", "gone")]
    log = run_well(workspace, run_id=RUN_TWO)
    of_u0, of_u3 = ([row for row in FIRST if row[0] == user] for user in ("u0", "u3"))
    assert f"{2 + len(of_u0)} rows were inserted and {len(of_u0) + len(of_u3)} deleted since run one" in log
    assert ratings_of(workspace, RUN_TWO) == sorted(expected)
    assert counts(workspace, RUN_TWO) == (2 + len(of_u0), len(FIRST) - len(of_u0) - len(of_u3))
    assert version_of(workspace, RUN_TWO) == lake.newest() != version_of(workspace, RUN_ONE)
    # Users that have no rating any more get no list, and one that is new gets one.
    users = {row["user_id"] for row in workspace.rows("recommendations", RUN_TWO)}
    assert users == {row[0] for row in expected}


def test_equal_rows_are_deleted_as_often_as_the_table_lost_them(lake, workspace):
    lake.insert([("u1", "i1", 4.0, 3)] * 3)
    run_well(workspace, run_id=RUN_ONE)
    lake.run_sql("DELETE FROM {} WHERE user_id = 'u1' AND item_id = 'i1'")
    lake.insert([("u1", "i1", 4.0, 3)] * 2)
    run_well(workspace, run_id=RUN_TWO)
    others = [row for row in FIRST if row[:2] != ("u1", "i1")]
    assert ratings_of(workspace, RUN_TWO) == sorted([*others, ("u1", "i1", 4.0, 3), ("u1", "i1", 4.0, 3)])


def test_a_query_is_applied_to_the_changes(lake, workspace):
    query = "input.query='SELECT user_id, item_id, rating / 2 AS rating, at FROM input WHERE at < 20'"
    run_well(workspace, query, run_id=RUN_ONE)
    lake.insert([("u1", "i0", 2.0, 10), ("late", "i0", 2.0, 20)])
    lake.run_sql("DELETE FROM {} WHERE user_id = 'u4'")
    run_well(workspace, query, run_id=RUN_TWO)
    rows = [row for row in [*FIRST, ("u1", "i0", 2.0, 10)] if row[0] != "u4"]
    assert ratings_of(workspace, RUN_TWO) == sorted((user, item, rating / 2, at) for user, item, rating, at in rows)


def test_a_query_that_reads_another_table_reads_the_whole_one(lake, workspace, spark):
    spark.createDataFrame([("i0",), ("i1",)], "id string").write.parquet(str(workspace.folder / "films"))
    settings = [
        f'input.others={{films = {{path = "{workspace.folder}/films"}}}}',
        "input.query='SELECT r.* FROM input r JOIN films f ON item_id = f.id'",
    ]
    run_well(workspace, *settings, run_id=RUN_ONE)
    lake.run_sql("DELETE FROM {} WHERE item_id = 'i0' AND user_id = 'u1'")
    spark.createDataFrame([("i1",)], "id string").write.parquet(str(workspace.folder / "films"), mode="overwrite")
    log = run_well(workspace, *settings, run_id=RUN_TWO)
    assert "input.query reads other tables" in log
    assert ratings_of(workspace, RUN_TWO) == sorted(row for row in FIRST if row[1] == "i1")


def test_an_empty_table_is_an_error(lake, workspace):
    lake.reset()
    lake.sql(f"CREATE TABLE {lake.ratings} ({COLUMNS}) USING {lake.name}")
    outcome = workspace.run(run_id=RUN_ONE)
    assert outcome.exit_code == 3
    assert "has no rows; expected at least one rating" in outcome.errors[0]


def test_only_deleted_rows_are_a_change_and_only_rewritten_files_are_none(lake, workspace):
    run_well(workspace, run_id=RUN_ONE)
    lake.run_sql("DELETE FROM {} WHERE user_id = 'u3'")
    run_well(workspace, run_id=RUN_TWO)
    assert counts(workspace, RUN_TWO) == (0, sum(row[0] != "u3" for row in FIRST))
    lake.insert([])
    lake.compact()
    lake.run_sql("UPDATE {} SET rating = rating WHERE user_id = 'u1'")
    lake.run_sql("ALTER TABLE {} ADD COLUMNS (note STRING)")
    lake.run_sql("UPDATE {} SET note = 'x' WHERE user_id = 'u2'")
    assert "nothing is new since run two; nothing to publish" in run_well(workspace, run_id="three")
    pinned = f"input.version={lake.newest()}"
    assert "nothing is new since run two; nothing to publish" in run_well(workspace, pinned, run_id="pinned")
    assert workspace.current() == "two\n"
    assert "nothing is new" in run_well(workspace, run_id="four")


def test_a_run_can_be_repeated_on_the_version_of_its_manifest(lake, workspace):
    run_well(workspace, run_id=RUN_ONE)
    lake.run_sql("UPDATE {} SET rating = 1")
    pinned = f"input.version={version_of(workspace, RUN_ONE)}"
    run_well(workspace, pinned, "input.incremental=false", run_id="again")
    for table in ("user_factors", "item_factors", "recommendations"):
        assert workspace.rows(table, "again") == workspace.rows(table, RUN_ONE)
    # The report of a run that kept no ratings reads them at its version.
    assert "ratings" not in workspace.json("manifest.json", "again")["tables"]
    assert version_of(workspace, "again") == version_of(workspace, RUN_ONE) != lake.newest()


def test_the_folder_of_a_table_is_read_as_the_table(lake, workspace):
    text = workspace.config.read_text()
    where = f'path = "{lake.path()}"\nformat = "{lake.name}"'
    workspace.config.write_text(text.replace(f'table = "{lake.ratings}"', where))
    run_well(workspace, run_id=RUN_ONE)
    lake.run_sql("DELETE FROM {} WHERE user_id = 'u3'")
    lake.insert([("u1", "i0", 2.0, 10)])
    run_well(workspace, run_id=RUN_TWO)
    assert counts(workspace, RUN_TWO) == (1, sum(row[0] != "u3" for row in FIRST))


def test_a_table_that_does_not_tell_what_changed_is_read_whole(lake, workspace):
    lake.reset()
    lake.create(FIRST, properties=lake.keeps_none)
    run_well(workspace, run_id=RUN_ONE)
    lake.run_sql("DELETE FROM {} WHERE user_id = 'u3' AND item_id = 'i1'")
    log = run_well(workspace, run_id=RUN_TWO)
    reason = {"delta": "DELTA_MISSING_CHANGE_DATA", "iceberg": "Delete files are currently not supported"}[lake.name]
    assert "reading the whole table, not only what changed since run one: " in log
    assert reason in log
    assert ratings_of(workspace, RUN_TWO) == sorted(row for row in FIRST if row[:2] != ("u3", "i1"))


def test_versions_that_were_removed_make_the_whole_table_be_read(lake, workspace):
    run_well(workspace, run_id=RUN_ONE)
    lake.run_sql("DELETE FROM {} WHERE user_id = 'u3'")
    lake.run_sql("UPDATE {} SET rating = 2 WHERE user_id = 'u1'")
    lake.forget()
    log = run_well(workspace, run_id=RUN_TWO)
    assert "reading the whole table, not only what changed since run one: " in log
    expected = [row if row[0] != "u1" else (*row[:2], 2.0, row[3]) for row in FIRST if row[0] != "u3"]
    assert ratings_of(workspace, RUN_TWO) == sorted(expected)
    outcome = workspace.run(f"input.version={version_of(workspace, RUN_ONE)}", "input.incremental=false", run_id="old")
    assert (outcome.exit_code, workspace.current()) == (3, "two\n")
    reason = {"delta": "removed by VACUUM", "iceberg": "has no version"}[lake.name]
    assert reason in outcome.errors[0]


def test_a_table_that_was_created_anew_is_read_whole(lake, workspace):
    run_well(workspace, run_id=RUN_ONE)
    lake.reset()
    lake.create(FIRST[:20])
    for row in FIRST[20:23]:  # more versions than the table before had
        lake.insert([row])
    assert "reading the whole table" in run_well(workspace, run_id=RUN_TWO)
    assert ratings_of(workspace, RUN_TWO) == sorted(FIRST[:23])


@pytest.mark.parametrize("policy", ["last", "mean"])
def test_merged_ratings_cannot_lose_one(lake, workspace, policy):
    run_well(workspace, f"input.duplicates={policy}", run_id=RUN_ONE)
    lake.insert([(*FIRST[0][:2], 9.0, 99)])
    run_well(workspace, f"input.duplicates={policy}", run_id=RUN_TWO)
    lake.run_sql("DELETE FROM {} WHERE at = 99")
    log = run_well(workspace, f"input.duplicates={policy}", run_id="three")
    assert f"input.duplicates = '{policy}' needs all ratings of a pair" in log
    assert ratings_of(workspace, "three") == sorted(FIRST)


def test_other_types_than_before_are_refused(lake, workspace):
    run_well(workspace, run_id=RUN_ONE)
    lake.reset()
    numbers = [(int(user[1:]), item, rating, at) for user, item, rating, at in FIRST]
    lake.create(numbers, COLUMNS_WITH_NUMBERS)
    outcome = workspace.run(run_id=RUN_TWO)
    assert (outcome.exit_code, workspace.current()) == (3, "one\n")
    assert "the types of the input have changed since run one: user_id was string and is int" in outcome.errors[0]
    assert "--set input.incremental=false" in outcome.errors[0]
    run_well(workspace, "input.incremental=false", run_id="three")


COLUMNS_WITH_NUMBERS = "user_id INT, item_id STRING, rating DOUBLE, at BIGINT"


def test_a_column_or_table_that_is_gone_is_an_error_and_harms_no_run(lake, workspace):
    run_well(workspace, run_id=RUN_ONE)
    lake.reset()
    lake.create([("u1", "i1", 5.0, 1)], "user_id STRING, item_id STRING, stars DOUBLE, at BIGINT")
    outcome = workspace.run(run_id=RUN_TWO)
    assert outcome.exit_code == 3
    assert "rating" in outcome.errors[0]
    lake.reset()
    outcome = workspace.run(run_id="three")
    assert outcome.exit_code == 3
    assert f"Spark does not find the table of the input '{lake.ratings}'" in outcome.errors[0]
    assert workspace.current() == "one\n"


def test_a_version_that_the_table_never_had_is_an_error(lake, workspace):
    outcome = workspace.run("input.version=4711", run_id=RUN_ONE)
    assert outcome.exit_code == 3
    assert f"the input '{lake.ratings}' has no version 4711" in outcome.errors[0]
    assert "correct input.version" in outcome.errors[0]
