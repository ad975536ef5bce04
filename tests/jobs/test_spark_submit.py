"""The jobs as users start them: spark-submit in a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfspark.batch.pipeline import STEPS
from tests.builders import TOY_RATINGS
from tests.conftest import JAVA_OPTIONS
from tests.jobs.runner import PROJECT, Workspace, snapshot

pytestmark = pytest.mark.spark

TIMEOUT_S = 300


def submit(*arguments):
    submit_path = Path(sys.executable).parent / "spark-submit"
    command = [submit_path, "--properties-file", "conf/spark-defaults.conf", "jobs/run_pipeline.py", *arguments]
    environment = {
        **os.environ,
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "JDK_JAVA_OPTIONS": JAVA_OPTIONS,
    }
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def test_toy_matrix_is_reconstructed(tmp_path):
    users, items, ratings = zip(*TOY_RATINGS, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "rating": ratings}), tmp_path / "toy.parquet")
    finished = submit(
        "--config", "conf/toy.toml", "--run-id", "toy",
        "--set", f"input.path={tmp_path}/toy.parquet", "--set", f"output.path={tmp_path}/out",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "mfspark: " not in finished.stderr
    assert (tmp_path / "out/CURRENT").read_text() == "toy\n"
    run = tmp_path / "out/runs/toy"
    users, items = (
        {row[f"{side}_id"]: row["features"] for row in pq.read_table(run / f"{side}_factors").to_pylist()}
        for side in ("user", "item")
    )
    predicted = [sum(x * y for x, y in zip(users[u], items[i], strict=True)) for u, i, _ in TOY_RATINGS]
    assert predicted == pytest.approx(list(ratings), abs=0.25)
    unseen = {row["user_id"]: row["recommendations"] for row in pq.read_table(run / "recommendations").to_pylist()}
    assert {user: [entry["item_id"] for entry in entries] for user, entries in unseen.items()} == {
        1: [3],
        2: [2],
        3: [1],
    }
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"


def test_absent_input_ends_with_its_exit_code_and_one_line(tmp_path):
    finished = submit(
        "--config", "conf/toy.toml",
        "--set", f"input.path={tmp_path}/absent.parquet", "--set", f"output.path={tmp_path}/out",
    )  # fmt: skip
    assert finished.returncode == 3, finished.stderr
    lines = re.findall("^mfspark: .*", finished.stdout + finished.stderr, re.MULTILINE)
    assert len(lines) == 1
    assert re.search(r"DataError: the input '.*/absent.parquet' does not exist; expected .*\(log: (.*)\)", lines[0])
    assert "Traceback" not in finished.stdout + finished.stderr
    log_path = Path(lines[0].rpartition("log: ")[2].removesuffix(")"))
    assert "Traceback" in log_path.read_text()
    log_path.unlink()
    assert not (tmp_path / "out/CURRENT").exists()


@pytest.mark.usefixtures("spark")
def test_second_job_on_an_output_ends_while_the_first_goes_on(tmp_path, monkeypatch):
    """The first job runs here, the second in a process of its own, in the middle of the first."""
    workspace = Workspace(tmp_path)
    users, items, ratings = zip(*TOY_RATINGS, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "rating": ratings}), workspace.input)
    train, refused = STEPS["train"], []

    def train_beside_another(config, run):
        before = snapshot(workspace.output)
        second = submit("--config", workspace.config, "--run-id", "second")
        refused.append((second.returncode, second.stdout + second.stderr))
        assert snapshot(workspace.output) == before
        train(config, run)

    monkeypatch.setitem(STEPS, "train", train_beside_another)
    first = workspace.run(run_id="first")
    assert first.exit_code == 0, first.stderr
    ((exit_code, output),) = refused
    assert exit_code == 5, output
    (line,) = re.findall("^mfspark: .*", output, re.MULTILINE)
    assert f"OutputError: '{workspace.output}' is locked by run 'first' (host " in line
    assert f", pid {os.getpid()}, since " in line
    assert workspace.current() == "first\n"
    assert sorted(path.name for path in workspace.output.iterdir()) == ["CURRENT", "runs"]
    assert [path.name for path in (workspace.output / "runs").iterdir()] == ["first"]
