"""Jobs on Spark Connect: the same runs as in a classic session, and what cannot work is one clear line."""

import os
import re
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfspark.cli.commands import main
from mfspark.engine.connect_files import ClientFiles
from tests.builders import random_ratings, ratings_table
from tests.cluster.connect import ConnectServer
from tests.cluster.processes import Process
from tests.conftest import JAVA_OPTIONS
from tests.jobs.runner import PROJECT, Workspace, write_parts

pytestmark = [pytest.mark.spark, pytest.mark.connect, pytest.mark.usefixtures("spark")]

TABLES = ["user_factors", "item_factors", "recommendations", "rejected_ratings"]


@pytest.fixture
def url(spark):
    """The server of the session."""
    return f"sc://{spark.client._builder.endpoint}"


@pytest.fixture
def workspace(tmp_path):
    """3,000 ratings in two files, one of them unusable."""
    workspace = Workspace(tmp_path, split={"holdout": 0.2}, recommend={"n": 5}, input={"max_rejected_share": 0.5})
    users, items, values = random_ratings(seed=3, n_users=200, n_items=60, n_ratings=3000)
    table = ratings_table(users, items, values, user="user_id", item="item_id")
    unusable = pa.table({"user_id": [1], "item_id": [2], "rating": [float("nan")]}).cast(table.schema)
    write_parts(pa.concat_tables([table, unusable]), workspace.input, 2)
    return workspace


def command(workspace, *flags, job="run_pipeline"):
    """A job of its own process."""
    return [
        sys.executable, PROJECT / f"jobs/{job}.py", f"--config={workspace.config}", "--run-id=run", *flags
    ]  # fmt: skip


def environment():
    """Of a process that has not used Spark Connect yet."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SPARK_")}
    small = "--master local[2] --conf spark.sql.shuffle.partitions=2 --conf spark.ui.enabled=false pyspark-shell"
    return {
        **kept, "PYTHONPATH": str(PROJECT), "PYSPARK_PYTHON": sys.executable, "JDK_JAVA_OPTIONS": JAVA_OPTIONS,
        "PYSPARK_SUBMIT_ARGS": small,
    }  # fmt: skip


def test_a_remote_run_is_that_of_a_classic_session(workspace, tmp_path):
    classic = workspace.elsewhere(tmp_path / "classic")
    done = subprocess.run(command(classic), env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    outcome = workspace.run()
    assert outcome.exit_code == 0, outcome.stderr
    assert workspace.current() == "run\n"
    names = [{path.name for path in (one.output / "runs/run").iterdir()} for one in (workspace, classic)]
    assert names[0] == names[1] == {*TABLES, "manifest.json", "metrics.json", "job.log"}
    for table in TABLES:
        assert repr(workspace.rows(table)) == repr(classic.rows(table))  # repr: NaN equals NaN
    found, expected = (one.json("metrics.json") for one in (workspace, classic))
    assert (found["rows"], found["lists"]) == (expected["rows"], expected["lists"])
    assert found["holdout"] == pytest.approx(expected["holdout"], rel=1e-12)  # Spark adds in another order
    found, expected = (one.json("manifest.json") for one in (workspace, classic))
    for key in ("steps", "tables", "versions", "input_files"):
        assert found[key] == expected[key]
    # One goes on where the other ended.
    outcome = classic.run("--overwrite")
    assert (outcome.exit_code, classic.current()) == (0, "run@2\n"), outcome.stderr


def test_a_signal_ends_a_remote_job_in_order(workspace, url, tmp_path):
    text = workspace.config.read_text().replace("max_iter = 2", 'max_iter = 2000\nengine = "connect"')
    workspace.config.write_text(text)
    job = Process(command(workspace, "--remote", url), tmp_path / "job.log", environment())
    try:
        job.wait_for("(iteration 3/)")
        os.kill(job.pid, signal.SIGTERM)
        assert job.wait() == 143, job.output
    finally:
        job.kill()
    (line,) = [line for line in job.output.splitlines() if line.startswith("mfspark: ")]
    assert re.match(
        r"mfspark: stopped by SIGTERM in train, after iteration \d+; continue with --run-id run --resume", line
    )
    assert "Traceback" not in job.output
    manifest = workspace.json("manifest.json")
    assert (manifest["status"], manifest["error"]["step"], manifest["steps"]) == ("interrupted", "train", ["ingest"])
    assert sorted(path.name for path in workspace.output.iterdir()) == ["runs"]


@pytest.mark.deep
def test_a_server_that_is_started_anew_meanwhile_ends_the_job_in_one_line(workspace, tmp_path):
    text = workspace.config.read_text().replace("max_iter = 2", 'max_iter = 2000\nengine = "connect"')
    workspace.config.write_text(text)
    server = ConnectServer("local[2]", tmp_path / "server")
    job = Process(command(workspace, "--remote", server.url), tmp_path / "job.log", environment())
    try:
        job.wait_for("(iteration 3/)")
        server.stop()
        port = server.url.rpartition(":")[2]
        server = ConnectServer("local[2]", tmp_path / "server", **{"spark.connect.grpc.binding.port": port})
        assert job.wait() == 4, job.output
    finally:
        job.kill()
        server.stop()
    (line,) = [line for line in job.output.splitlines() if line.startswith("mfspark: ")]
    assert "TrainingError: the Spark Connect server ended, or does not answer any more: " in line
    assert "; then continue with --resume" in line
    assert workspace.json("manifest.json")["status"] == "failed"


@pytest.mark.parametrize(
    ("setting", "exit_code", "said"),
    [
        ("output.path={other}", 5, "cannot use '{other}' from a client of Spark Connect, which reaches only local and"),
        ("input.path={other}", 3, "cannot use '{other}' from a client of Spark Connect, which reaches only local and"),
    ],
)
@pytest.mark.parametrize("other", ["s3a://bucket/a", "hdfs://host/a"])
def test_a_file_system_that_the_client_does_not_reach_is_refused(workspace, setting, exit_code, said, other):
    outcome = workspace.run(setting.format(other=other))
    assert (outcome.exit_code, len(outcome.errors)) == (exit_code, 1), outcome.stderr
    assert said.format(other=other) in outcome.errors[0]


def test_an_output_that_the_server_does_not_find_is_refused_before_anything_is_read(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the server's working folder is another
    outcome = workspace.run("output.path=elsewhere", "input.path=nowhere")
    assert (outcome.exit_code, len(outcome.errors)) == (2, 1)
    assert (
        "the Spark Connect server and this machine do not find the same file under 'elsewhere/.probe-" in outcome.stderr
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_input_that_the_server_does_not_find_is_told_from_one_that_is_nowhere(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = workspace.run("input.path=ratings.parquet")
    assert (outcome.exit_code, len(outcome.errors)) == (3, 1)
    said = "'ratings.parquet' does not exist: this machine has it, but the Spark Connect server does not find it; "
    assert said in outcome.errors[0]
    outcome = workspace.run(f"input.path={tmp_path}/nowhere", "--overwrite")
    assert f"'{tmp_path}/nowhere' does not exist; expected parquet files" in outcome.errors[0]


def test_an_input_that_only_the_server_finds_is_refused(workspace, monkeypatch):
    monkeypatch.setattr(ClientFiles, "require_shared", lambda *_: None)
    monkeypatch.setattr(ClientFiles, "_status", lambda *_: [])
    outcome = workspace.run()
    assert (outcome.exit_code, len(outcome.errors)) == (2, 1)
    said = f"the Spark Connect server and this machine do not find the same file under 'file://{workspace.input}/part-"
    assert said in outcome.errors[0]


def test_a_table_of_a_command_is_refused_where_the_server_does_not_find_it(workspace, tmp_path, monkeypatch, capsys):
    assert workspace.run().exit_code == 0
    monkeypatch.chdir(tmp_path)
    lists = ["lists", str(workspace.output), "--to"]
    assert main([*lists, "lists"]) == 2
    assert "do not find the same file under './.probe-" in capsys.readouterr().err
    assert main([*lists, str(tmp_path / "lists")]) == 0
    assert pq.read_table(tmp_path / "lists").num_rows == len(workspace.rows("user_factors"))
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
