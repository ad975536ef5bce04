"""Run nights of conf/schedule/airflow_dag.py in a real Airflow, on a standalone cluster: good, repeated, with a killed
driver, held by the gate, with rejected data. Checks the task states of each night, from Airflow's API, and CURRENT.

./scripts/drill_airflow [repeated killed held rejected]
"""

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.cluster.processes import Process, wait_until
from tests.cluster.standalone import SPARK_HOME, Cluster
from tests.cluster.submit import make_workspace
from tests.jobs.runner import PROJECT, Workspace, snapshot

AIRFLOW = PROJECT / "build/airflow/bin/airflow"
JOBS = ["ingest", "train", "recommend", "evaluate"]
ONCE = dict.fromkeys(JOBS, ("success", 1))
"""State and number of tries of each task if nothing fails."""
FIRST = "20260101T030000\n"
"""CURRENT after the good night."""


class Airflow:
    """All processes of an Airflow that has only our DAG, and its API."""

    def __init__(self, folder: Path, master: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.token = f"http://127.0.0.1:{port}", ""
        (folder / "dags").mkdir(parents=True)
        (folder / "dags/mfspark.py").symlink_to(PROJECT / "conf/schedule/airflow_dag.py")
        host, _, master_port = master.rpartition(":")
        settings = {
            "AIRFLOW_HOME": folder,
            "AIRFLOW__CORE__LOAD_EXAMPLES": False,
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": 2,
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": 2,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": port,
            "AIRFLOW__API__WORKERS": 1,
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": False,  # only the script starts nights
            "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": host, "port": int(master_port)}),
            "MFSPARK_HOME": PROJECT,
            "SPARK_HOME": SPARK_HOME,
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": PROJECT,
            "PATH": f"{AIRFLOW.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        environment = {**os.environ, **{key: str(value) for key, value in settings.items()}}
        self._process = Process([AIRFLOW, "standalone"], folder / "airflow.log", environment)
        self.token = wait_until(lambda: self._try(lambda: self.call("/auth/token")["access_token"]), "Airflow's API")
        wait_until(lambda: self._try(lambda: self.call("/api/v2/dags/mfspark")), "the DAG in Airflow")

    def stop(self) -> None:
        """Kill all its processes."""
        self._process.kill()

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the API: GET, or POST if there is a body."""
        request = urllib.request.Request(
            self.address + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def begin_night(self, night: str, workspace: Workspace) -> None:
        """Trigger the DAG over this workspace."""
        self.call(
            "/api/v2/dags/mfspark/dagRuns",
            {"dag_run_id": night, "logical_date": night, "conf": {"config": str(workspace.config)}},
        )

    def repeat_night(self, night: str) -> None:
        """Clear all tasks of a night, so that they run again."""
        body = {"dag_run_id": night, "dry_run": False, "only_failed": False, "reset_dag_runs": True}
        self.call("/api/v2/dags/mfspark/clearTaskInstances", body)

    def end_of_night(self, night: str) -> tuple[str, dict[str, tuple[str, int]]]:
        """Wait for the end; state of the DAG run, and state and number of tries of each task."""
        path = f"/api/v2/dags/mfspark/dagRuns/{night}"
        while (state := self.call(path)["state"]) not in ("success", "failed"):
            time.sleep(1)
        tasks = self.call(f"{path}/taskInstances")["task_instances"]
        return state, {task["task_id"]: (task["state"], task["try_number"]) for task in tasks}

    def _try(self, call: Callable[[], Any]) -> Any:
        """The answer, or None if nobody answers yet."""
        assert self._process.is_alive, self._process.output
        time.sleep(1)
        try:
            return call()
        except (urllib.error.URLError, ConnectionError):
            return None


def kill_driver(workspace: Workspace) -> None:
    """Kill the next training job in this output; its lock has the process id."""

    def training() -> dict[str, Any] | None:
        for manifest in workspace.output.glob("runs/*/manifest.json"):
            locks = list(workspace.output.glob(".lock-*"))
            if json.loads(manifest.read_text())["steps"] == ["ingest"] and locks:
                return json.loads(locks[0].read_text())
        return None

    os.kill(wait_until(training, "a job that trains")["pid"], signal.SIGKILL)


def expect(night: str, found: Any, expected: Any) -> None:
    """Print the result; exit if it differs from the expected one."""
    print(f"{night:28} {found}", flush=True)
    if found != expected:
        sys.exit(f"mfspark: expected {expected}")


def good(airflow: Airflow, workspace: Workspace) -> None:
    """A night without faults."""
    airflow.begin_night("2026-01-01T03:00:00Z", workspace)
    expect("good", airflow.end_of_night("2026-01-01T03:00:00Z"), ("success", ONCE))
    expect("  CURRENT", workspace.current(), FIRST)


def repeated(airflow: Airflow, workspace: Workspace) -> None:
    """Clears every task of the good night, so that all run again."""
    before = snapshot(workspace.output)
    airflow.repeat_night("2026-01-01T03:00:00Z")
    expect("repeated", airflow.end_of_night("2026-01-01T03:00:00Z"), ("success", dict.fromkeys(JOBS, ("success", 2))))
    expect("  output is the same", snapshot(workspace.output) == before, True)


def killed(airflow: Airflow, workspace: Workspace) -> None:
    """Kills the driver of train, in another output."""
    other = make_workspace(workspace.folder / "killed")
    airflow.begin_night("2026-01-02T03:00:00Z", other)
    kill_driver(other)
    expect("killed", airflow.end_of_night("2026-01-02T03:00:00Z"), ("success", {**ONCE, "train": ("success", 2)}))
    expect("  CURRENT", other.current(), "20260102T030000\n")


def held(airflow: Airflow, workspace: Workspace) -> None:
    """The run is much worse than the current one, and there is a gate."""
    settings = workspace.config.read_text()
    worse = settings.replace("max_iter = 6", "max_iter = 0") + '[gate]\nhold = "rmse <= 1.01 * current"\n'
    workspace.config.write_text(worse)
    airflow.begin_night("2026-01-03T03:00:00Z", workspace)
    expect("held", airflow.end_of_night("2026-01-03T03:00:00Z"), ("failed", {**ONCE, "evaluate": ("failed", 1)}))
    expect("  CURRENT", workspace.current(), FIRST)
    workspace.config.write_text(settings)


def rejected(airflow: Airflow, workspace: Workspace) -> None:
    """Half of the ratings cannot be used."""
    nulls = pa.table({"user_id": [1, None], "item_id": [1, 2], "rating": [3.0, 4.0]})
    pq.write_table(nulls, workspace.input)
    airflow.begin_night("2026-01-04T03:00:00Z", workspace)
    rest = dict.fromkeys(JOBS[1:], ("upstream_failed", 0))
    expect("rejected", airflow.end_of_night("2026-01-04T03:00:00Z"), ("failed", {"ingest": ("failed", 1), **rest}))
    expect("  CURRENT", workspace.current(), FIRST)


NIGHTS = {night.__name__: night for night in (repeated, killed, held, rejected)}
"""Nights after a good one, in this order."""


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nights", nargs="*", metavar="NIGHT", help=f"after the good one: {', '.join(NIGHTS)}; else all")
    nights = parser.parse_args().nights or list(NIGHTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("mfspark: terminated"))  # and end what was started
    with tempfile.TemporaryDirectory(prefix="mfspark-drill-") as name:
        folder = Path(name)
        cluster = Cluster(folder / "cluster", wants_small_disks=False)
        try:
            airflow = Airflow(folder / "airflow", cluster.url)
            try:
                workspace = make_workspace(folder / "nights")
                good(airflow, workspace)
                for night in nights:
                    NIGHTS[night](airflow, workspace)
            finally:
                airflow.stop()
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
