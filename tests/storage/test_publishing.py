"""What readers find: a complete run, whenever they look and wherever a job was cut off."""

import json
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfspark.config.sections import InputConfig, OutputConfig, PipelineConfig
from mfspark.engine.files import FileStore
from mfspark.errors import OutputError
from mfspark.storage import lock as lock_module
from mfspark.storage.lock import lock_output
from mfspark.storage.retention import prune_runs
from mfspark.storage.runs import open_run
from tests.storage.crash import PowerCut, cut_power_after

pytestmark = pytest.mark.spark

N_PUBLISHES, KEEP_RUNS, N_ROWS = 50, 3, 1000


def config_of(output, keep_runs=None):
    return PipelineConfig(InputConfig("in"), OutputConfig(str(output), keep_runs=keep_runs))


def job(spark, output, run_id, mode, text, keep_runs=None):
    """A job of two steps, each of which writes the text."""
    with lock_output(spark, str(output), run_id) as lock:
        run = open_run(spark, config_of(output, keep_runs), run_id, mode, lock)
        if run.is_published:
            return
        for name in ("ingest", "train"):
            if not run.is_done(name):
                with run.step(name):
                    run.files.replace_text(run.path(name), text)
        run.publish()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read(output):
    """What a reader finds: the texts of both steps of the run that CURRENT names, which must be complete."""
    if not (output / "CURRENT").exists():
        return None
    run = output / "runs" / (output / "CURRENT").read_text().strip()
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"
    return (run / "ingest").read_text(), (run / "train").read_text()


def leave_published(spark, output):
    job(spark, output, "a", "new", "old")
    job(spark, output, "b", "new", "old")


def leave_unfinished(spark, output):
    leave_published(spark, output)
    with lock_output(spark, str(output), "r") as lock:
        run = open_run(spark, config_of(output), "r", "new", lock)
        with run.step("ingest"):
            run.files.replace_text(run.path("ingest"), "new")


SCENARIOS = {
    # What there is before; run id, mode and keep_runs of the job; the runs after it.
    "new": (leave_published, "r", "new", None, ["a", "b", "r"]),
    "resumed": (leave_unfinished, "r", "resume", None, ["a", "b", "r"]),
    "repeated": (leave_published, "b", "overwrite", None, ["a", "b", "b@2"]),
    "started again": (leave_unfinished, "r", "overwrite", None, ["a", "b", "r"]),
    "pruning": (leave_published, "r", "new", 1, ["r"]),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_between_any_two_file_operations_can_be_gone_on_from(spark, tmp_path, monkeypatch, scenario):
    prepare, run_id, mode, keep_runs, expected = SCENARIOS[scenario]
    prepare(spark, tmp_path / "before")
    # The jobs that come after the crash are other processes than the one that was cut off.
    monkeypatch.setattr(lock_module, "_is_alive", lambda *_: False)
    seen, is_cut, n_operations = [], True, 0
    while is_cut:
        output = tmp_path / str(n_operations)
        shutil.copytree(tmp_path / "before", output)
        with monkeypatch.context() as patch:
            is_over = cut_power_after(patch, n_operations)
            with suppress(PowerCut):
                job(spark, output, run_id, mode, "new", keep_runs)
            is_cut = is_over()
        seen.append(read(output))
        assert_can_go_on(spark, output, run_id, keep_runs)
        assert names(output) == ["CURRENT", "runs"]
        assert names(output / "runs") == expected
        shutil.rmtree(output)
        n_operations += 1
    # First the old run, from one operation on the new one.
    switched = seen.index(("new", "new"))
    assert 0 < switched < len(seen) - 1
    assert seen == [("old", "old")] * switched + [("new", "new")] * (len(seen) - switched)


def assert_can_go_on(spark, output, run_id, keep_runs):
    """By --resume, where the run is not published; and the next job leaves nothing behind."""
    if read(output) == ("new", "new"):
        with lock_output(spark, str(output), "any") as lock:
            prune_runs(lock.files, str(output), keep_runs)
        return
    job(spark, output, run_id, "resume", "new", keep_runs)
    if read(output) != ("new", "new"):  # what is published is the run that should have been repeated
        job(spark, output, run_id, "overwrite", "new", keep_runs)
    assert read(output) == ("new", "new")


def test_runs_that_cannot_be_removed_do_not_undo_the_publication(spark, tmp_path, monkeypatch, caplog):
    job(spark, tmp_path, "a", "new", "text")

    def refuse(_, folder, seal):  # noqa: ARG001
        raise OutputError("cannot delete")

    monkeypatch.setattr(FileStore, "delete_folder", refuse)
    job(spark, tmp_path, "b", "new", "text", keep_runs=1)
    assert read(tmp_path) == ("text", "text")
    assert caplog.messages == ["could not remove old runs: cannot delete"]
    assert names(tmp_path / "runs") == ["a", "b"]


class Reader(threading.Thread):
    """Reads what CURRENT names, again and again."""

    def __init__(self, output, published):
        super().__init__()
        self.output, self.published = output, published
        self.n_reads, self.problems, self.is_over = 0, [], False

    def run(self):
        while not self.is_over:
            try:
                self.read()
            except Exception as problem:
                self.problems.append(problem)

    def read(self):
        name = (self.output / "CURRENT").read_text().strip()
        number = self.published.index(name)
        try:
            table = pq.read_table(self.output / "runs" / name / "table")
            manifest = json.loads((self.output / "runs" / name / "manifest.json").read_text())
        except FileNotFoundError:
            # Whoever holds on to a run for longer than it is kept has to look again.
            if number >= len(self.published) - KEEP_RUNS:
                raise
            return
        assert table.column("number").to_pylist() == [number] * N_ROWS
        assert manifest["status"] == "complete"
        self.n_reads += 1


def publish_table(spark, output, number, published):
    """Publish a run whose table has its number in all rows of two files."""
    run_id, mode = ("again", "overwrite") if number % 3 == 0 else (f"run-{number}", "new")
    with lock_output(spark, str(output), run_id) as lock:
        run = open_run(spark, config_of(output, KEEP_RUNS), run_id, mode, lock)
        Path(run.path("table")).mkdir()
        for part in range(2):
            rows = pa.table({"number": [number] * (N_ROWS // 2)})
            pq.write_table(rows, run.path(f"table/part-{part}.parquet"))
        published.append(run.folder.rpartition("/")[2])
        run.publish()


def test_readers_never_see_a_broken_table(spark, tmp_path):
    published = []
    publish_table(spark, tmp_path, 0, published)
    readers = [Reader(tmp_path, published) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, N_PUBLISHES):
        publish_table(spark, tmp_path, number, published)
    for reader in readers:
        reader.is_over = True
        reader.join()
        assert reader.problems == []
        assert reader.n_reads > KEEP_RUNS  # it did read in between
    assert (tmp_path / "CURRENT").read_text() == published[-1] + "\n"
    assert names(tmp_path / "runs") == sorted(published[-KEEP_RUNS:])
