"""Runs: who may open one, what a failure leaves, and how one takes the place of another."""

import errno
import json
import shutil
from datetime import datetime, timezone

import pytest

from mfspark.config.sections import InputConfig, OutputConfig, PipelineConfig, TrainConfig
from mfspark.engine.files import FileStore
from mfspark.engine.local_files import LocalFiles
from mfspark.errors import ConfigError, DataError, OutputError
from mfspark.storage.lock import lock_output
from mfspark.storage.runs import CHECKPOINT, new_run_id, open_run, require_run_id
from mfspark.storage.tables import read_table, write_table

pytestmark = pytest.mark.spark


@pytest.fixture
def lock(spark, tmp_path):
    with lock_output(spark, f"{tmp_path}/", "a job") as lock:
        yield lock


@pytest.fixture
def open_as(spark, tmp_path, lock):
    """Open a run in the given mode."""

    def open_it(mode, run_id="r", **train):
        config = PipelineConfig(InputConfig("in"), OutputConfig(f"{tmp_path}/"), train=TrainConfig(**train))
        return open_run(spark, config, run_id, mode, lock)

    return open_it


def fill(run, text):
    """Do the one step of a run; its table is a text file."""
    with run.step("ingest"):
        run.files.replace_text(run.path("table"), text)
        run.metrics["text"] = text
    return run


def publish(run, text):
    fill(run, text).publish()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock-1"))


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("run_id", ["a", "0", "20260131T235959Z", "a.b_c-d", "x" * 128, "a.next"])
def test_allowed_run_id(run_id):
    require_run_id(run_id)


@pytest.mark.parametrize(
    "run_id",
    [
        "", ".", "..", "../x", "a/b", "/a", ".hidden", "_x", "-x", "a b", "a\n", "a\\b", "é", "x" * 129, "a:b", "*",
        "a@2",
    ],
)  # fmt: skip
def test_refused_run_id(run_id):
    with pytest.raises(ConfigError, match=r"is not allowed; expected 1 to 128 letters, digits"):
        require_run_id(run_id)


def test_new_run_id_is_the_time_in_utc():
    before = datetime.now(timezone.utc).replace(microsecond=0)
    started = datetime.strptime(new_run_id(), "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=timezone.utc)
    assert before <= started <= datetime.now(timezone.utc)
    require_run_id(new_run_id())
    assert len({new_run_id() for _ in range(20)}) > 1  # within one second


def test_a_run_is_invisible_until_it_is_published(open_as, tmp_path):
    run = open_as("new")
    assert manifest(tmp_path / "runs/r")["status"] == "running"
    fill(run, "content")
    assert manifest(tmp_path / "runs/r")["steps"] == ["ingest"]
    assert names(tmp_path) == ["runs"]
    run.publish()
    assert (tmp_path / "CURRENT").read_text() == "r\n"
    assert manifest(tmp_path / "runs/r")["status"] == "complete"
    publish(open_as("new", "s"), "later")
    assert (tmp_path / "CURRENT").read_text() == "s\n"
    assert names(tmp_path / "runs") == ["r", "s"]


def test_failed_step_is_recorded_and_its_error_reported(open_as, tmp_path):
    run = open_as("new")
    with pytest.raises(DataError, match="no rows"), run.step("ingest"):
        raise DataError("no rows")
    found = manifest(tmp_path / "runs/r")
    assert (found["status"], found["steps"]) == ("failed", [])
    assert {key: found["error"][key] for key in ("step", "type", "message")} == {
        "step": "ingest", "type": "DataError", "message": "no rows"
    }  # fmt: skip
    assert 'raise DataError("no rows")' in found["error"]["traceback"]


def test_error_of_a_step_is_reported_even_if_it_cannot_be_recorded(open_as, tmp_path):
    run = open_as("new")
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").write_text("a file where the runs were")
    with pytest.raises(DataError, match="no rows"), run.step("ingest"):
        raise DataError("no rows")


@pytest.mark.parametrize(
    ("state", "mode", "message"),
    [
        (
            "published",
            "new",
            "run 'r' in '.*' is already published; repeat it with --overwrite or use another --run-id",
        ),
        (
            "published",
            "repeat",
            "run 'r' in '.*' is already published; repeat it from the ingest step with --overwrite",
        ),
        (
            "unfinished",
            "new",
            "run 'r' in '.*' is unfinished; continue it with --resume or start over with --overwrite",
        ),
        ("absent", "continue", "run 'r' in '.*' does not exist; start it with the ingest step and this --run-id"),
        ("absent", "repeat", "run 'r' in '.*' does not exist; start it with the ingest step and this --run-id"),
    ],
)
def test_run_that_cannot_be_opened(open_as, tmp_path, state, mode, message):
    if state != "absent":
        run = fill(open_as("new"), "content")
        if state == "published":
            run.publish()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=message):
        open_as(mode)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("mode", ["resume", "continue", "repeat"])
def test_unfinished_run_goes_on_where_it_was(open_as, mode):
    fill(open_as("new"), "content")
    run = open_as(mode)
    assert run.is_done("ingest")
    assert not run.is_done("train")
    assert run.metrics["text"] == "content"
    assert run.files.read_text(run.path("table")) == "content"
    assert not run.is_published


@pytest.mark.parametrize("mode", ["resume", "continue"])
def test_nothing_is_left_to_do_once_readers_have_the_run_or_a_later_one(open_as, tmp_path, mode):
    publish(open_as("new"), "content")
    assert open_as(mode).is_published
    publish(open_as("new", "s"), "later")
    assert open_as(mode).is_published
    (tmp_path / "CURRENT").unlink()  # what a crash before the switch leaves
    assert not open_as(mode).is_published


def test_failure_is_forgotten_once_the_step_is_done(open_as, tmp_path):
    with pytest.raises(ValueError, match="first"), open_as("new").step("ingest"):
        raise ValueError("first")
    publish(open_as("resume"), "content")
    assert manifest(tmp_path / "runs/r")["status"] == "complete"
    assert "error" not in manifest(tmp_path / "runs/r")


@pytest.mark.parametrize("mode", ["resume", "continue"])
def test_going_on_needs_the_same_configuration(open_as, mode):
    open_as("new", rank=3)
    with pytest.raises(
        ConfigError, match=r"another configuration: train.rank \(3 then, 4 now\), train.seed \(0 then, 9 now\); use"
    ):
        open_as(mode, rank=4, seed=9)


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
def test_run_that_does_not_exist_is_started(open_as, tmp_path, mode):
    publish(open_as(mode), "content")
    assert (tmp_path / "CURRENT").read_text() == "r\n"


def test_overwriting_an_unfinished_run_begins_with_nothing(open_as, tmp_path):
    fill(open_as("new"), "first")
    run = open_as("overwrite", rank=3)
    assert not run.is_done("ingest")
    assert names(tmp_path / "runs/r") == ["manifest.json"]


def test_repetition_of_a_published_run_gets_a_folder_of_its_own(open_as, tmp_path):
    publish(open_as("new"), "first")
    fill(open_as("overwrite"), "left unfinished")
    assert (tmp_path / "CURRENT").read_text() == "r\n"
    with pytest.raises(OutputError, match="is unfinished; continue"):
        open_as("new")
    run = fill(open_as("overwrite"), "second")
    assert run.files.read_text(run.path("table")) == "second"
    assert open_as("resume").folder == open_as("continue").folder == f"{tmp_path}/runs/r@2"
    assert (tmp_path / "CURRENT").read_text() == "r\n"
    run.publish()
    assert (tmp_path / "CURRENT").read_text() == "r@2\n"
    publish(open_as("overwrite"), "third")
    assert (tmp_path / "CURRENT").read_text() == "r@3\n"
    assert names(tmp_path / "runs") == ["r", "r@2", "r@3"]
    assert [(tmp_path / f"runs/{name}/table").read_text() for name in names(tmp_path / "runs")] == [
        "first",
        "second",
        "third",
    ]
    assert manifest(tmp_path / "runs/r@3")["run_id"] == "r"


def test_folders_of_other_runs_are_no_repetitions(open_as, tmp_path):
    for name in ("r2", "rr", "r@x", "r@", ".r@7", "x@9"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    publish(open_as("new"), "first")
    (tmp_path / "runs/r").rename(tmp_path / "runs/r@9")  # by number, not by name, 10 comes after it
    publish(open_as("overwrite"), "tenth")
    publish(open_as("overwrite"), "second")
    assert (tmp_path / "CURRENT").read_text() == "r@11\n"


def test_job_that_ended_before_its_first_write_can_be_resumed(open_as, tmp_path):
    (tmp_path / "runs/r").mkdir(parents=True)
    publish(open_as("resume"), "content")
    assert (tmp_path / "CURRENT").read_text() == "r\n"


def test_job_whose_first_write_was_cut_off_can_be_resumed(open_as, tmp_path, monkeypatch):
    write = LocalFiles.write

    def write_half(files, path, content):
        write(files, path, content[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalFiles, "write", write_half)
    with pytest.raises(OutputError, match="No space left"):
        open_as("new")
    monkeypatch.undo()
    publish(open_as("resume"), "content")
    assert (tmp_path / "CURRENT").read_text() == "r\n"


def test_rejected_publication_can_be_repeated(open_as, tmp_path, monkeypatch):
    run, replace_text = fill(open_as("new"), "content"), FileStore.replace_text

    def fail_at_current(files, path, text):
        if path.endswith("CURRENT"):
            raise OutputError(f"cannot write '{path}'")
        replace_text(files, path, text)

    monkeypatch.setattr(FileStore, "replace_text", fail_at_current)
    with pytest.raises(OutputError, match="CURRENT"):
        run.publish()
    monkeypatch.undo()
    open_as("resume").publish()
    assert (tmp_path / "CURRENT").read_text() == "r\n"


def test_forgotten_step_is_forgotten_on_disk_before_anything_is_written(open_as, tmp_path):
    run = fill(open_as("new"), "content")
    run.files.replace_text(f"{run.path(CHECKPOINT)}/iteration-000001.npz", "half-way")
    with run.step("train"):
        pass
    run.forget_from("train")
    assert manifest(tmp_path / "runs/r")["steps"] == ["ingest"]
    assert names(tmp_path / "runs/r") == ["manifest.json", "metrics.json", "table"]


def test_job_that_lost_its_lock_publishes_nothing(open_as, tmp_path):
    publish(open_as("new", "s"), "before")
    run = fill(open_as("new"), "content")
    (tmp_path / ".lock-1").write_text("another job's")
    with pytest.raises(OutputError, match=r"lost its lock on '.*'; nothing was published"):
        run.publish()
    with pytest.raises(OutputError, match="lost its lock"), run.step("train"):
        pass
    with pytest.raises(DataError, match="no rows"), run.step("train"):
        raise DataError("no rows")
    assert (manifest(tmp_path / "runs/r")["status"], manifest(tmp_path / "runs/r")["steps"]) == ("running", ["ingest"])
    assert (tmp_path / "CURRENT").read_text() == "s\n"


def test_lock_lost_after_the_run_was_complete_leaves_current_alone(open_as, tmp_path, monkeypatch):
    run, replace_text = fill(open_as("new"), "content"), FileStore.replace_text

    def lose_the_lock(files, path, text):
        replace_text(files, path, text)
        if path.endswith("manifest.json"):
            (tmp_path / ".lock-1").unlink()

    monkeypatch.setattr(FileStore, "replace_text", lose_the_lock)
    with pytest.raises(OutputError, match="lost its lock"):
        run.publish()
    assert manifest(tmp_path / "runs/r")["status"] == "complete"
    assert not (tmp_path / "CURRENT").exists()


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
def test_run_of_a_job_that_may_only_have_paused_goes_on_in_another_folder(open_as, lock, tmp_path, mode):
    paused = fill(open_as("new"), "content")
    lock.may_predecessor_live = True
    run = open_as(mode)
    assert run.is_done("ingest") == (mode == "resume")
    paused.files.replace_text(paused.path("table"), "too late")
    publish(run, "content")
    assert (tmp_path / "CURRENT").read_text() == "r@2\n"
    assert (tmp_path / "runs/r@2/table").read_text() == "content"


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
@pytest.mark.parametrize("damage", ["", '{"run', "[]"])
def test_damaged_manifest_is_named_and_left(open_as, tmp_path, mode, damage):
    publish(open_as("new"), "content")
    (tmp_path / "runs/r/manifest.json").write_text(damage)
    with pytest.raises(
        OutputError, match=r"expected a JSON object in '.*/manifest.json', found .*; restore it or remove"
    ):
        open_as(mode)
    assert (tmp_path / "runs/r/table").read_text() == "content"
    publish(open_as("new", "s"), "other")  # no obstacle to other runs


@pytest.mark.parametrize("name", ["a*", "[a]", "{a,b}", "a?", "\\", "%20 #"])
def test_path_of_a_table_is_no_pattern(spark, tmp_path, name):
    for folder in (name, "a", "ab"):
        write_table(spark.createDataFrame([(folder,)], "name string"), str(tmp_path / folder / "table"))
    assert [row["name"] for row in read_table(spark, str(tmp_path / name / "table")).collect()] == [name]
