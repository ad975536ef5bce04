"""Incremental runs: from yesterday's factors and ratings, with new files alone read."""

import re
import shutil
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mfspark.batch.incremental import has_what_was_read
from mfspark.config.loading import load_config
from scripts.import_movielens import import_movielens
from tests.jobs.runner import Workspace, snapshot

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]

COLUMNS = {"user": "user_id", "item": "item_id", "timestamp": "time"}


def rows(*ratings):
    """Rows of (user, item, rating, time)."""
    users, items, values, times = zip(*ratings, strict=True)
    return pa.table({"user_id": users, "item_id": items, "rating": [float(value) for value in values], "time": times})


def write_day(workspace, day, table, file="part-0"):
    folder = workspace.folder / "days" / f"day={day}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"{file}.parquet")


FIRST_DAY = rows(
    (1, 10, 5, 1), (1, 20, 3, 1), (2, 10, 4, 1), (2, 30, 1, 1), (3, 20, 2, 1), (3, 30, 5, 1), (9, 10, 2, 1)
)  # fmt: skip


@pytest.fixture(scope="module")
def first_day(spark_session, tmp_path_factory):  # noqa: ARG001
    """A published first day, of ratings in a folder a day; the latest rating of a pair counts. Beside it, a copy."""
    folder = tmp_path_factory.mktemp("incremental")
    (folder / "used").mkdir()
    workspace = Workspace(
        folder / "used",
        input={"path": str(folder / "used/days"), "incremental": True, "duplicates": "last"},
        columns=COLUMNS,
        train={"max_iter": 8, "warm_max_iter": 2},
    )
    write_day(workspace, "2026-01-01", FIRST_DAY)
    run_well(workspace, run_id="first")
    shutil.copytree(workspace.folder, folder / "kept")
    return workspace


@pytest.fixture
def workspace(first_day):
    """The published first day, as it was, in one place for all tests: its manifest names the files with their times."""
    shutil.rmtree(first_day.folder)
    shutil.copytree(first_day.folder.parent / "kept", first_day.folder)
    return first_day


def ratings_of(workspace, run_id):
    return {
        (row["user_id"], row["item_id"]): (row["rating"], row["timestamp"]) for row in workspace.rows("ratings", run_id)
    }


def users_of(workspace, run_id):
    return {row["user_id"] for row in workspace.rows("user_factors", run_id)}


def run_well(workspace, *arguments, run_id, job="run_pipeline"):
    outcome = workspace.run(*arguments, run_id=run_id, job=job)
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.stderr


@pytest.mark.remote
def test_new_late_and_corrected_ratings_are_read_and_the_others_are_not(workspace):
    # Newer than the rating it corrects; older, and so without effect; late for its day; of a new user and item.
    write_day(workspace, "2026-01-02", rows((1, 10, 1, 2), (2, 30, 5, 0), (4, 40, 3, 2)))
    write_day(workspace, "2026-01-01", rows((9, 20, 4, 1)), file="late")
    run_well(workspace, run_id="second")
    found = workspace.json("metrics.json", "second")["rows"]
    assert (found["read"], found["carried"], found["merged_duplicates"], found["train"]) == (4, 7, 2, 9)
    first = {
        (user, item): (rating, time) for user, item, rating, time in zip(*FIRST_DAY.to_pydict().values(), strict=True)
    }
    assert ratings_of(workspace, "second") == first | {(1, 10): (1, 2), (4, 40): (3, 2), (9, 20): (4, 1)}
    assert users_of(workspace, "second") == {1, 2, 3, 4, 9}
    manifest = workspace.json("manifest.json", "second")
    assert (manifest["base"], len(manifest["input_files"])) == ("first", 3)
    assert all(re.fullmatch(r"\d+ bytes, \d{16} µs", stamp) for stamp in manifest["input_files"].values())
    assert len(workspace.json("metrics.json", "second")["training"]["iterations"]) == 2
    assert workspace.current() == "second\n"


def test_ratings_that_are_gone_or_changed_make_everything_be_read(workspace):
    write_day(workspace, "2026-01-01", FIRST_DAY.slice(0, 6))  # without user 9
    log = run_well(workspace, run_id="second")
    assert "reading all files, not only the new ones since run first: 1 of its files were changed or removed" in log
    assert workspace.json("metrics.json", "second")["rows"]["read"] == 6
    assert users_of(workspace, "second") == {1, 2, 3}
    assert len(workspace.json("metrics.json", "second")["training"]["iterations"]) == 2  # from the factors all the same


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("split.seed=5", "settings differ: split.seed"),
        pytest.param("input.duplicates=mean", "settings differ: input.duplicates", marks=pytest.mark.deep),
    ],
)
def test_ratings_that_were_read_otherwise_are_read_again(workspace, setting, reason):
    log = run_well(workspace, setting, run_id="second")
    assert f"reading all files, not only the new ones since run first: {reason}" in log
    assert workspace.json("metrics.json", "second")["rows"]["carried"] == 0


def test_a_run_that_was_not_incremental_has_nothing_to_go_on_with(tmp_path, caplog):
    config = load_config(Workspace(tmp_path).config)
    manifest = {"config": config.as_dict(), "input_files": {"file:/ratings": None}}
    base = mock.Mock(manifest=manifest, has_table=lambda _: False)
    base.name = "first"
    with caplog.at_level("INFO", logger="mfspark"):
        assert not has_what_was_read(config, base, {"file:/ratings": "5 bytes"})
    assert "run first: that run was not incremental and kept no ratings" in caplog.text


def test_factors_of_another_rank_are_no_start(workspace):
    log = run_well(workspace, "train.rank=3", run_id="second")
    assert "training starts from random factors, not from run first: settings differ: train.rank" in log
    assert len(workspace.json("metrics.json", "second")["training"]["iterations"]) == 8
    assert workspace.json("metrics.json", "second")["rows"]["read"] == 7


@pytest.mark.remote
def test_run_without_new_data_says_so_and_publishes_nothing(workspace):
    before = snapshot(workspace.output / "runs/first")
    message = "run second: nothing is new since run first; nothing to publish"
    assert message in run_well(workspace, run_id="second")
    # The same in single steps, and again.
    assert message in run_well(workspace, run_id="second", job="train")
    assert message in run_well(workspace, "--resume", run_id="second")
    assert workspace.current() == "first\n"
    assert workspace.json("manifest.json", "second")["status"] == "unchanged"
    assert snapshot(workspace.output / "runs/first") == before
    # It is no obstacle, and goes with the runs of its time.
    write_day(workspace, "2026-01-02", rows((1, 30, 1, 2)))
    run_well(workspace, "output.keep_runs=1", run_id="third")
    assert [path.name for path in (workspace.output / "runs").iterdir()] == ["third"]


def test_an_interrupted_run_goes_on_from_the_run_it_was_begun_on(workspace):
    write_day(workspace, "2026-01-02", rows((1, 30, 1, 2)))
    run_well(workspace, run_id="second", job="ingest")
    write_day(workspace, "2026-01-03", rows((2, 20, 1, 3)))
    run_well(workspace, run_id="third")
    run_well(workspace, "--resume", run_id="second")
    assert workspace.json("manifest.json", "second")["base"] == "first"
    assert workspace.json("metrics.json", "second")["rows"]["train"] == 8


def test_the_run_that_an_interrupted_one_was_begun_on_may_be_gone(workspace):
    write_day(workspace, "2026-01-02", rows((1, 30, 1, 2)))
    run_well(workspace, run_id="second", job="ingest")
    run_well(workspace, run_id="third")
    shutil.rmtree(workspace.output / "runs/first")
    outcome = workspace.run("--resume", run_id="second")
    assert outcome.exit_code == 5
    assert "run 'first' in '" in outcome.errors[0]
    assert "was removed; start over with --overwrite" in outcome.errors[0]
    run_well(workspace, "--overwrite", run_id="second")


def test_two_iterations_from_yesterdays_factors_reach_the_objective_of_a_cold_fit(tmp_path, real_data):
    import_movielens(real_data / "ml-100k/u.data", tmp_path / "all.parquet")
    table = pq.read_table(tmp_path / "all.parquet").rename_columns(["user_id", "item_id", "rating", "time"])
    yesterday = pc.less(table["time"], 891_000_000)
    settings = {"rank": 10, "max_iter": 12, "warm_max_iter": 2, "num_user_blocks": 2, "num_item_blocks": 2}
    source = {"path": str(tmp_path / "days"), "incremental": True}
    workspace = Workspace(tmp_path, input=source, columns=COLUMNS, train=settings)
    write_day(workspace, 1, table.filter(yesterday))
    run_well(workspace, run_id="yesterday")
    write_day(workspace, 2, table.filter(pc.invert(yesterday)))
    run_well(workspace, run_id="today")
    cold = workspace.elsewhere(tmp_path / "cold")
    run_well(cold, "train.max_iter=12", run_id="cold")
    (*_, cold_one), (*_, warm_one) = (
        space.json("metrics.json", run)["training"]["iterations"]
        for space, run in ((cold, "cold"), (workspace, "today"))
    )
    assert (cold_one["iteration"], warm_one["iteration"]) == (12, 2)
    assert warm_one["objective"] < 1.001 * cold_one["objective"]
    shares = workspace.json("metrics.json", "today")["rows"]
    assert 0.03 < shares["read"] / shares["train"] < 0.3


def test_ratings_are_kept_by_the_current_run_only(workspace):
    write_day(workspace, "2026-01-02", rows((1, 30, 1, 2)))
    run_well(workspace, run_id="second")
    tables = {run: set(workspace.json("manifest.json", run)["tables"]) for run in ("first", "second")}
    assert {"ratings"} == tables["second"] - tables["first"]
    assert not (workspace.output / "runs/first/ratings").exists()
    assert workspace.rows("recommendations", "first")


@pytest.mark.remote
@pytest.mark.parametrize(
    "setting",
    [
        pytest.param('input.exclude=["*/day=2026-01-02/*"]', id="pattern"),
        pytest.param('input.exclude_runs=["bad"]', id="run", marks=pytest.mark.deep),
    ],
)
def test_bad_files_are_left_out_of_the_nights_after_a_held_one(workspace, setting):
    first_day = ratings_of(workspace, "first")
    write_day(workspace, "2026-01-02", rows(*((1, 1000 + item, 5, 2) for item in range(40))))
    held = workspace.run("gate.hold=items <= 2 * current", "output.keep_runs=3", run_id="bad")
    assert held.exit_code == 6
    assert "number of items is 43, above 2 × 3 (the current run 'first')" in held.errors[0]
    assert workspace.current() == "first\n"
    write_day(workspace, "2026-01-03", rows((2, 20, 4, 3)))
    # Without a word, the bad files hold the next night too.
    assert workspace.run("gate.hold=items <= 2 * current", run_id="still-bad").exit_code == 6
    run_well(workspace, "gate.hold=items <= 2 * current", setting, "output.keep_runs=1", run_id="third")
    assert ratings_of(workspace, "third") == first_day | {(2, 20): (4.0, 3)}
    assert workspace.json("metrics.json", "third")["rows"]["read"] == 1
    # The held run is gone; its files stay out, until they are corrected.
    assert not (workspace.output / "runs/bad").exists()
    write_day(workspace, "2026-01-04", rows((3, 10, 2, 4)))
    run_well(workspace, setting, run_id="fourth")
    assert ratings_of(workspace, "fourth") == first_day | {(2, 20): (4.0, 3), (3, 10): (2.0, 4)}


def test_a_corrected_file_is_no_longer_that_of_the_excluded_run(workspace):
    write_day(workspace, "2026-01-02", rows((1, 99, 5, 2)))
    assert workspace.run("gate.hold=items <= current", run_id="bad").exit_code == 6
    write_day(workspace, "2026-01-02", rows((1, 30, 1, 2), (2, 20, 2, 2)))
    run_well(workspace, 'input.exclude_runs=["bad"]', run_id="next")
    assert ratings_of(workspace, "next")[1, 30] == (1.0, 2)
    assert (1, 99) not in ratings_of(workspace, "next")


@pytest.mark.parametrize(
    ("setting", "exit_code", "message"),
    [
        ('input.exclude_runs=["unknown"]', 2, "has no run 'unknown' that lists its new files"),
        ('input.exclude=["*"]', 3, "input.exclude and input.exclude_runs exclude all 1 input files"),
    ],
)
def test_what_cannot_be_excluded_is_said(workspace, setting, exit_code, message):
    outcome = workspace.run(setting, run_id="second")
    assert outcome.exit_code == exit_code
    assert message in outcome.errors[0]


@pytest.mark.remote
def test_after_a_rollback_the_nights_go_on_from_the_earlier_run(workspace):
    for day in ("02", "03"):
        write_day(workspace, f"2026-01-{day}", rows((1, 90 + int(day), 5, int(day))))
        run_well(workspace, run_id=f"night-{day}")
    said = run_well(workspace, run_id="first", job="rollback")
    assert "CURRENT now names run first; before, it named night-03" in said
    assert "withdrawn: night-02, night-03; to publish one of them again, pass its --run-id" in said
    assert "the next incremental run reads the whole input: run first no longer has its ratings" in said
    assert workspace.current() == "first\n"
    assert workspace.run("--resume", run_id="night-03").exit_code == 5
    shutil.rmtree(workspace.folder / "days/day=2026-01-02")
    run_well(workspace, run_id="night-04")
    assert {(1, 92), (1, 93)} & set(ratings_of(workspace, "night-04")) == {(1, 93)}
    write_day(workspace, "2026-01-05", rows((3, 10, 1, 5)))
    run_well(workspace, run_id="night-05")
    assert workspace.json("metrics.json", "night-05")["rows"]["read"] == 1
    assert {(1, 93), (3, 10)} <= set(ratings_of(workspace, "night-05"))
