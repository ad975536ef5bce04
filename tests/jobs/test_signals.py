"""SIGTERM and Ctrl-C: one line, a true manifest, no lock, an exit code, and --resume goes on."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.builders import random_ratings, ratings_table
from tests.conftest import JAVA_OPTIONS
from tests.jobs.runner import PROJECT, Workspace, write_parts

pytestmark = pytest.mark.spark

END_S = 10.0
START_S = 120.0


class Job:
    """A job in a process of its own, and its lines as they come."""

    def __init__(self, workspace, *, is_submitted):
        submit = [Path(sys.executable).parent / "spark-submit", "--properties-file", "conf/spark-defaults.conf"]
        self.process = subprocess.Popen(
            [
                *(submit if is_submitted else [sys.executable]),
                *("jobs/run_pipeline.py", "--config", workspace.config, "--run-id", "run", "--resume"),
            ],
            cwd=PROJECT,
            env={
                **os.environ,
                "PYTHONPATH": str(PROJECT),
                "PYSPARK_PYTHON": sys.executable,
                "PYSPARK_DRIVER_PYTHON": sys.executable,
                "JDK_JAVA_OPTIONS": JAVA_OPTIONS,
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line)

    def wait_for(self, text):
        deadline = time.monotonic() + START_S
        while not any(text in line for line in self.lines):
            assert time.monotonic() < deadline, "".join(self.lines)
            assert self.process.poll() is None, "".join(self.lines)
            time.sleep(0.005)

    def end(self, *signals):
        """Send signals; exit code and seconds until the end."""
        started = time.monotonic()
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.2)
        code = self.process.wait(timeout=START_S)
        self._reader.join()
        return code % 256, time.monotonic() - started


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    users, items, values = random_ratings(seed=3, n_users=3000, n_items=500, n_ratings=60_000)
    folder = tmp_path_factory.mktemp("signals") / "ratings"
    return write_parts(ratings_table(users, items, values, user="user_id", item="item_id"), folder, 2)


@pytest.mark.parametrize(
    ("is_submitted", "step", "signals", "exit_code"),
    [
        (False, "ingest", [signal.SIGTERM], 143),
        (False, "train", [signal.SIGINT], 130),
        (False, "evaluate", [signal.SIGTERM, signal.SIGTERM], 143),
        (True, "train", [signal.SIGTERM], 143),
        (True, "recommend", [signal.SIGTERM, signal.SIGINT], 143),
    ],
)
def test_a_signal_ends_a_job_in_order(tmp_path, ratings, is_submitted, step, signals, exit_code):
    workspace = Workspace(
        tmp_path,
        input={"path": str(ratings)},
        split={"holdout": 0.2},
        train={"max_iter": 2000, "engine": "rdd"} if step == "train" else {},
    )
    job = Job(workspace, is_submitted=is_submitted)
    job.wait_for("iteration 3" if step == "train" else f"{step}: started")
    code, seconds = job.end(*signals)
    output = "".join(job.lines)
    assert code == exit_code, output
    assert seconds < END_S
    (line,) = [line for line in job.lines if line.startswith("mfspark: ")]
    after = r", after iteration \d+" if step == "train" else ""
    assert re.match(
        rf"mfspark: stopped by {signals[0].name} in {step}{after}; continue with --run-id run --resume", line
    )
    assert "Traceback" not in output
    manifest = workspace.json("manifest.json")
    assert (manifest["status"], manifest["error"]["step"]) == ("interrupted", step)
    assert [path.name for path in workspace.output.iterdir() if path.name != "logs"] == ["runs"]  # no lock, no CURRENT
