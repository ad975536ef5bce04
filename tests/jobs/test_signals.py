"""SIGTERM and Ctrl-C: one line, a true manifest, no lock, an exit code, and --resume goes on.

This process does the steps before, on its warm session; the process that gets the signal goes on from there.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from mfspark.batch.pipeline import STEPS
from tests.builders import random_ratings, ratings_table
from tests.cluster.processes import Process
from tests.conftest import JAVA_OPTIONS
from tests.jobs.runner import PROJECT, Workspace, write_parts

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("spark")]

END_S = 10.0


@pytest.fixture
def start(tmp_path):
    """Start the pipeline over a workspace, in a process of its own."""
    processes = []

    def start_it(workspace, *, is_submitted):
        submit = [
            Path(sys.executable).parent / "spark-submit",
            "--properties-file",
            PROJECT / "conf/spark-defaults.conf",
        ]
        command = [
            *(submit if is_submitted else [sys.executable]),
            *(PROJECT / "jobs/run_pipeline.py", "--config", workspace.config, "--run-id", "run", "--resume"),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "JDK_JAVA_OPTIONS": JAVA_OPTIONS,
        }
        processes.append(Process(command, tmp_path / "job.log", environment))
        return processes[-1]

    yield start_it
    for process in processes:
        process.kill()


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    users, items, values = random_ratings(seed=3, n_users=3000, n_items=500, n_ratings=20_000)
    folder = tmp_path_factory.mktemp("signals") / "ratings"
    return write_parts(ratings_table(users, items, values, user="user_id", item="item_id"), folder, 2)


@pytest.mark.parametrize(
    ("is_submitted", "step", "signals", "exit_code"),
    [
        pytest.param(False, "ingest", [signal.SIGTERM], 143, marks=pytest.mark.deep),
        (False, "train", [signal.SIGINT], 130),
        (False, "evaluate", [signal.SIGTERM, signal.SIGTERM], 143),
        (True, "train", [signal.SIGTERM], 143),
        pytest.param(True, "recommend", [signal.SIGTERM, signal.SIGTERM], 143, marks=pytest.mark.deep),
    ],
)
def test_a_signal_ends_a_job_in_order(tmp_path, ratings, start, is_submitted, step, signals, exit_code):
    train = {"max_iter": 2000, "engine": "rdd"} if step == "train" else {}
    workspace = Workspace(tmp_path, input={"path": str(ratings)}, split={"holdout": 0.2}, train=train)
    for name in STEPS:
        if name == step:
            break
        outcome = workspace.run(job=name)
        assert outcome.exit_code == 0, outcome.stderr
    job = start(workspace, is_submitted=is_submitted)
    job.wait_for("(iteration 3/)" if step == "train" else f"({step}: started)")
    started = time.monotonic()
    for number in signals:
        os.kill(job.pid, number)
    assert job.wait() % 256 == exit_code, job.output
    assert time.monotonic() - started < END_S
    (line,) = [line for line in job.output.splitlines() if line.startswith("mfspark: ")]
    after = r", after iteration \d+" if step == "train" else ""
    said = rf"mfspark: stopped by {signals[0].name} in {step}{after}; continue with --run-id run --resume \(log: "
    assert re.match(said, line)
    assert "Traceback" not in job.output
    manifest = workspace.json("manifest.json")
    assert (manifest["status"], manifest["error"]["step"]) == ("interrupted", step)
    assert not [path.name for path in workspace.output.iterdir() if path.name.startswith((".lock", "CURRENT"))]
