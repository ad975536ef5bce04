"""Runs: who may open one, what a failure leaves, and how one takes the place of another."""

import json
import shutil
from datetime import datetime, timezone

import pytest

from mfspark.config import InputConfig, OutputConfig, PipelineConfig, TrainConfig
from mfspark.errors import ConfigError, DataError, OutputError
from mfspark.storage.files import FileStore
from mfspark.storage.runs import new_run_id, open_run, require_run_id

pytestmark = pytest.mark.spark


@pytest.fixture
def open_as(spark, tmp_path):
    """Open a run in the given mode."""

    def open_it(mode, run_id="r", **train):
        config = PipelineConfig(InputConfig("in"), OutputConfig(f"{tmp_path}/"), train=TrainConfig(**train))
        return open_run(spark, config, run_id, mode)

    return open_it


def fill(run, text):
    """Do the one step of a run; its table is a text file."""
    with run.step("ingest"):
        run.files.create_text(run.path("table"), text)
        run.metrics["text"] = text
    return run


def publish(run, text):
    fill(run, text).publish()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("run_id", ["a", "0", "20260131T235959Z", "a.b_c-d", "x" * 128, "next", "a.nextr"])
def test_allowed_run_id(run_id):
    require_run_id(run_id)


@pytest.mark.parametrize(
    "run_id",
    [
        "", ".", "..", "../x", "a/b", "/a", ".hidden", "_x", "-x", "a b", "a\n", "a\\b", "é", "x" * 129, "a:b", "*",
        "a.next",
        "a.old",
    ],
)  # fmt: skip
def test_refused_run_id(run_id):
    with pytest.raises(ConfigError, match=r"is not allowed; expected 1 to 128 letters, digits"):
        require_run_id(run_id)


def test_new_run_id_is_the_time_in_utc():
    before = datetime.now(timezone.utc).replace(microsecond=0)
    started = datetime.strptime(new_run_id(), "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    assert before <= started <= datetime.now(timezone.utc)
    require_run_id(new_run_id())


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
        ("published", "new", "run 'r' in '.*' is published; repeat it with --overwrite or choose another --run-id"),
        ("published", "resume", "run 'r' in '.*' is published already; repeat it from its ingest with --overwrite"),
        ("published", "continue", "run 'r' in '.*' is published already; repeat it from its ingest with --overwrite"),
        ("unfinished", "new", "run 'r' in '.*' is unfinished; go on with --resume or start again with --overwrite"),
        ("absent", "continue", "run 'r' in '.*' does not exist; start it with the ingest step and this --run-id"),
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


@pytest.mark.parametrize("mode", ["resume", "continue"])
def test_unfinished_run_goes_on_where_it_was(open_as, mode):
    fill(open_as("new"), "content")
    run = open_as(mode)
    assert run.is_done("ingest")
    assert not run.is_done("train")
    assert run.metrics["text"] == "content"
    assert run.files.read_text(run.path("table")) == "content"


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
        ConfigError, match=r"different: train.rank \(3 then, 4 now\), train.seed \(0 then, 9 now\); use"
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


def test_repetition_takes_the_place_of_a_published_run_at_its_end(open_as, tmp_path):
    publish(open_as("new"), "first")
    fill(open_as("overwrite"), "left unfinished")
    run = fill(open_as("overwrite"), "second")
    assert (tmp_path / "runs/r/table").read_text() == "first"
    run.publish()
    assert (tmp_path / "runs/r/table").read_text() == "second"
    assert names(tmp_path / "runs") == ["r"]
    assert run.folder == f"{tmp_path}/runs/r"


@pytest.mark.parametrize("lost", ["both", "new one only"])
def test_interrupted_swap_is_mended(open_as, tmp_path, lost):
    publish(open_as("new"), "first")
    runs = tmp_path / "runs"
    fill(open_as("overwrite"), "second")
    (runs / "r").rename(runs / "r.old")  # the crash came after the first rename …
    if lost == "both":
        assert open_as("resume").files.read_text(f"{runs}/r/table") == "first"
        open_as("resume").publish()
    else:
        (runs / "r.next").rename(runs / "r")  # … or after the second
        found = manifest(runs / "r") | {"status": "complete"}
        (runs / "r/manifest.json").write_text(json.dumps(found))
        with pytest.raises(OutputError, match="published"):
            open_as("new")
    assert (runs / "r/table").read_text() == "second"
    assert names(runs) == ["r"]


def test_job_that_ended_before_its_first_write_can_be_resumed(open_as, tmp_path):
    (tmp_path / "runs/r").mkdir(parents=True)
    publish(open_as("resume"), "content")
    assert (tmp_path / "CURRENT").read_text() == "r\n"


def test_second_job_that_starts_the_same_run_is_refused(open_as, tmp_path, monkeypatch):
    exists = FileStore.exists
    # Both jobs have looked and found nothing before either of them writes.
    monkeypatch.setattr(FileStore, "exists", lambda *_: False)
    first = open_as("new")
    with pytest.raises(OutputError, match=f"cannot create '{tmp_path}/runs/r/manifest.json'"):
        open_as("new")
    monkeypatch.setattr(FileStore, "exists", exists)
    publish(first, "content")


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
