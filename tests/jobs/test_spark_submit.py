"""The jobs as users start them: spark-submit in a process of its own."""

import json
import os
import re
import shutil
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


SPARK_SUBMIT = Path(sys.executable).parent / "spark-submit"
PLAIN = [SPARK_SUBMIT]
SHIPPED = [SPARK_SUBMIT, "--properties-file", "conf/spark-defaults.conf"]
PYTHON = [sys.executable]

# What Java and spark-submit print before the job runs. The note is of the environment below.
OF_JAVA = r"WARNING: Using incubator modules: .*|NOTE: Picked up JDK_JAVA_OPTIONS: .*"
OF_JAVA += "|WARNING: package sun.security.action not in java.base"  # Java 25
OF_SPARK_SUBMIT = r"|Using Spark's default log4j profile: .*|\d\d/\d\d/\d\d \S+ WARN Utils: .*"
OF_THE_JOB = r"\d\d:\d\d:\d\d .*|mfspark: .*"


def run(*command, **variables):
    environment = {
        **os.environ,
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "JDK_JAVA_OPTIONS": JAVA_OPTIONS,
        **variables,
    }
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def submit(*arguments, start=SHIPPED):
    return run(*start, "jobs/run_pipeline.py", *arguments)


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


@pytest.mark.parametrize(
    ("start", "before"),
    [
        pytest.param(SHIPPED, OF_JAVA, id="shipped", marks=pytest.mark.deep),
        pytest.param(PLAIN, OF_JAVA + OF_SPARK_SUBMIT, id="plain"),
        pytest.param(PYTHON, "nothing", id="python"),
    ],
)
def test_unreadable_input_ends_with_its_exit_code_and_one_line(tmp_path, start, before):
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\n1,2,3\n")
    finished = submit(
        "--config", "conf/toy.toml", "--run-id", "toy",
        "--set", f"input.path={tmp_path}/ratings.csv", "--set", f"output.path={tmp_path}/out", start=start,
    )  # fmt: skip
    assert finished.returncode == 3, finished.stderr
    output = (finished.stderr + finished.stdout).splitlines()
    assert [line for line in output if not re.fullmatch(f"{before}|{OF_THE_JOB}", line)] == []
    (line,) = [line for line in output if line.startswith("mfspark: ")]
    assert output[-1] == line
    log_path = tmp_path / "out/runs/toy/job.log"
    assert re.search(
        f"DataError: the input '.*/ratings.csv' cannot be read: .*; for csv set .* \\(log: {log_path}\\)$", line
    )
    log = log_path.read_text()
    assert "ERROR Executor: Exception in task" in log
    assert "\tat org.apache.spark" in log
    assert "Traceback (most recent call last)" in log
    assert not (tmp_path / "out/CURRENT").exists()


def test_missing_java_is_told_with_the_command_that_installs_it(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "ps"):  # of Spark's start script
        (programs / name).symlink_to(shutil.which(name))
    (programs / "dnf").touch(mode=0o755)
    finished = run(
        *PYTHON, "jobs/run_pipeline.py", "--config=conf/toy.toml", f"--set=output.path={tmp_path}/out",
        PATH=str(programs), JAVA_HOME="", TMPDIR=str(tmp_path),
    )  # fmt: skip
    assert finished.returncode == 2, finished.stderr
    (log_path,) = tmp_path.glob("mfspark-*.log")
    assert finished.stderr + finished.stdout == (
        "mfspark: ConfigError: cannot start Java: no java on the PATH, and JAVA_HOME is not set; expected Java 17, "
        f"21 or 25; install it: sudo dnf install --assumeyes java-17-openjdk-headless (log: {log_path})\n"
    )


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
