"""What a job shows while it runs."""

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import time
from datetime import datetime

import pytest

from mfspark.cli import command_line
from mfspark.errors import TrainingError
from mfspark.tracking.console import console_handler
from mfspark.training.duration import shown_duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log():
    """Log through the console's handler into a stream."""
    logger = logging.getLogger("test of the console")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False

    def start(log_format, stream):
        logger.addHandler(console_handler(log_format, stream))
        return logger

    yield start
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def progress(iteration):
    return {"context": {"iteration": iteration, "max_iter": 4, "seconds_left": 61.0 * (4 - iteration)}}


def test_lines_in_a_file_are_plain(log):
    stream = io.StringIO()
    logger = log("text", stream)
    logger.info("iteration %d", 1, extra=progress(1))
    logger.debug("not for the console")
    assert re.fullmatch(r"\d\d:\d\d:\d\d iteration 1\n", stream.getvalue())


def test_terminal_has_a_bar_below_the_lines_until_training_stops(log):
    terminal = Terminal()
    logger = log("text", terminal)
    logger.info("ingested")
    assert "training" not in terminal.getvalue()
    logger.info("first", extra=progress(1))
    assert "training  25 %|" in terminal.getvalue()
    assert "| 1/4, 3 min left" in terminal.getvalue()
    logger.info("third", extra=progress(3))
    assert "training  75 %|" in terminal.getvalue()
    # Before a line is written, the bar is cleared.
    assert re.search(r"\r *\r\d\d:\d\d:\d\d third\n", terminal.getvalue())
    logger.info("stopped", extra={"context": {"stop_reason": "tol", "iterations": 3}})
    assert re.search(r"\r *\r$", terminal.getvalue())
    before = len(terminal.getvalue())
    logger.info("recommend")
    assert re.fullmatch(r"\d\d:\d\d:\d\d recommend\n", terminal.getvalue()[before:])


def sign_of_life(created, done=3, total=8):
    context = {"step": "ingest", "tasks_done": done, "tasks": total, "seconds_left": 9.0, "seconds": 4.0}
    line = f"ingest: {done}/{total} tasks" if total else "ingest: 4 s so far"
    return logging.makeLogRecord({"msg": line, "context": context, "levelno": logging.INFO, "created": created})


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_file_has_a_sign_of_life_only_after_ten_seconds_of_silence(log, log_format):
    stream = io.StringIO()
    logger = log(log_format, stream)
    start = logging.makeLogRecord({"msg": "ingest: started", "levelno": logging.INFO, "created": 1000.0})
    logger.handle(start)
    for created in (1002.0, 1008.0, 1010.5, 1012.5, 1020.0, 1021.0):
        logger.handle(sign_of_life(created, done=int(created) - 1000, total=99))
    shown = re.findall(r"ingest: (\d+/99|started)", stream.getvalue())
    assert shown == ["started", "10/99", "21/99"]


def test_terminal_has_a_bar_of_tasks_until_the_next_line(log):
    terminal = Terminal()
    logger = log("text", terminal)
    logger.info("ingest: started")
    logger.handle(sign_of_life(1000.0))
    assert re.search(r"ingest: 3/8 tasks \|[^|]+\|$", terminal.getvalue())
    logger.handle(sign_of_life(1002.0, 0, 0))
    assert terminal.getvalue().rstrip().endswith("\ringest: 4 s so far")
    logger.info("ingested")
    assert re.search(r"\r *\r\d\d:\d\d:\d\d ingested\n$", terminal.getvalue())


def test_terminal_has_no_bar_of_tasks_beside_that_of_the_iterations(log):
    terminal = Terminal()
    logger = log("text", terminal)
    logger.info("first", extra=progress(1))
    before = terminal.getvalue()
    logger.handle(sign_of_life(1000.0))
    assert terminal.getvalue() == before
    logger.info("stopped", extra={"context": {"stop_reason": "tol", "iterations": 3}})
    logger.handle(sign_of_life(1001.0))
    assert "ingest: 3/8 tasks |" in terminal.getvalue()


# What spark-submit's JVM is to the job: its parent, and the reader of its streams.
PARENT = "import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', sys.argv[1]], text=True))"
CHILD = (
    "import sys; from mfspark.tracking.console import console_handler as c; print(type(c('text', sys.stderr)).__name__)"
)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/fd"), reason="the output of another process can be looked up on Linux"
)
@pytest.mark.parametrize(
    ("environment", "is_terminal", "handler"),
    [
        ({"PYSPARK_GATEWAY_PORT": "1"}, True, "_TerminalHandler"),
        ({"PYSPARK_GATEWAY_PORT": "1"}, False, "StreamHandler"),
        ({}, True, "StreamHandler"),
    ],
)
def test_job_of_spark_submit_has_a_bar_where_the_jvm_writes_to_a_terminal(environment, is_terminal, handler):
    reader, writer = pty.openpty() if is_terminal else os.pipe()
    subprocess.run(
        [sys.executable, "-c", PARENT, CHILD],
        env={**os.environ, **environment}, stdout=writer, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    assert os.read(reader, 100).decode().split() == [handler]
    os.close(reader)
    os.close(writer)


def test_bar_of_a_training_that_failed_makes_way_for_the_error(monkeypatch, tmp_path):
    def fail(*_, **__):
        logging.getLogger("mfspark").info("first", extra=progress(1))
        raise TrainingError("why")

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(command_line, "_run", fail)
    monkeypatch.setattr(logging.getLogger("mfspark"), "handlers", [])  # those of the job go with it
    assert command_line.run_job("", ["ingest"], ["--config=x"]) == 4
    assert re.search(r"1/4, 3 min left\r *\rmfspark: TrainingError: why \(log: .*\)\n$", terminal.getvalue())


def test_json_is_that_of_sparks_structured_log(log, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    stream = Terminal()  # no bar there either
    logger = log("json", stream)
    logger.info("iteration %d", 2, extra={"context": {"objective": 1.5, "validation_rmse": None}})
    try:
        raise ValueError("no λ\nat all")
    except ValueError:
        logger.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["ts"])
    assert abs(datetime.fromisoformat(first.pop("ts").removesuffix("Z") + "+00:00").timestamp() - time.time()) < 600
    assert first == {
        "level": "INFO",
        "logger": "test of the console",
        "msg": "iteration 2",
        "context": {"objective": 1.5, "validation_rmse": None},
    }
    assert (second["level"], second["exception"]["class"]) == ("ERROR", "ValueError")
    assert second["exception"]["msg"] == "no λ\nat all"
    monkeypatch.undo()
    time.tzset()
    assert second["exception"]["stacktrace"][0]["method"] == "test_json_is_that_of_sparks_structured_log"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3569, "59 min"), (3600, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_duration_in_words(seconds, shown):
    assert shown_duration(seconds) == shown
