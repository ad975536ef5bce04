"""Where the log of a job is."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from mfspark.tracking.log_file import KEPT, LogFile


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def logged(text, folder=None):
    """A log file with this line, closed: its path."""
    log = LogFile("text")
    log.folder = folder
    log.handler.handle(logging.makeLogRecord({"msg": text}))
    path = log.close()
    assert log.close() == path
    return path


def test_log_of_a_job_without_a_run_stays_in_the_temporary_folder(temporary):
    path = logged("why")
    assert path.parent == temporary
    assert path.read_text().endswith(" why\n")


def test_logs_of_the_jobs_of_a_run_are_one_file_in_its_folder(temporary, tmp_path):
    run = tmp_path / "runs/monday"
    run.mkdir(parents=True)
    assert logged("first", run) == logged("second", run) == run / "job.log"
    assert [line.rpartition(" ")[2] for line in (run / "job.log").read_text().splitlines()] == ["first", "second"]
    assert list(temporary.iterdir()) == []


def test_log_of_a_run_that_was_removed_in_the_meantime_stays(temporary, tmp_path):
    run = tmp_path / "monday"
    run.mkdir()
    log = LogFile("text")
    log.folder = run
    shutil.rmtree(run)
    assert log.close().parent == temporary
    assert log.close().exists()


def test_temporary_folder_keeps_the_newest_logs_and_all_that_is_not_ours(temporary):
    others = ["mfspark-report.html", "spark.log", "mfspark-x"]
    for name in others:
        (temporary / name).touch()
    paths = [logged(str(number)) for number in range(KEPT)]
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (1e9 - age, 1e9 - age))
    newest = logged("newest")
    assert {path.name for path in temporary.iterdir()} == {*others, newest.name, *(path.name for path in paths[1:])}


def test_log_in_json_has_the_lines_of_the_console_in_json(temporary):
    log = LogFile("json")
    log.handler.handle(logging.makeLogRecord({"msg": "done", "name": "mfspark", "levelname": "INFO"}))
    assert '"msg": "done"' in Path(log.close()).read_text()
    assert len(list(temporary.iterdir())) == 1
