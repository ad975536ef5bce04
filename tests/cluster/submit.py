"""The real jobs, submitted to a cluster as their users do, and what they leave behind."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.builders import random_ratings, ratings_table
from tests.cluster.processes import Process
from tests.cluster.standalone import SPARK_HOME
from tests.conftest import JAVA_OPTIONS
from tests.jobs.runner import PROJECT, Workspace

LOG_SETTINGS = PROJECT / "conf/log4j2.properties"
N_ITERATIONS = 6
N_BLOCKS = 2
"""Of a side: one for each worker."""

_submitted: list[Process] = []


def make_workspace(folder: Path, **train: object) -> Workspace:
    """A few thousand ratings, and a training that takes long enough to be disturbed."""
    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(
        folder,
        split={"holdout": 0.1},
        train={
            "rank": 8,
            "max_iter": N_ITERATIONS,
            "refit": False,  # faults strike the iterations, which are the same in a refit
            "num_user_blocks": N_BLOCKS,
            "num_item_blocks": N_BLOCKS,
            "engine": "rdd",
            **train,
        },
        recommend={"n": 5},
    )
    ratings = random_ratings(seed=7, n_users=200, n_items=120, n_ratings=4000)
    pq.write_table(ratings_table(*ratings, user="user_id", item="item_id"), workspace.input, row_group_size=1000)
    return workspace


def submit(
    master: str,
    workspace: Workspace,
    *flags: str,
    run_id: str = "run",
    conf: dict[str, object] | None = None,
    options: Sequence[object] = (),
    job: str = "run_pipeline",
) -> Process:
    """spark-submit in a process of its own, with these options of its own; the settings of `conf` come last."""
    settings: dict[str, object] = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.executor.memory": "512m",
        "spark.driver.extraJavaOptions": f"{JAVA_OPTIONS} -Dlog4j2.configurationFile=file:{LOG_SETTINGS}",
        "spark.executor.extraJavaOptions": JAVA_OPTIONS,
        "spark.pyspark.driver.python": sys.executable,
        "spark.pyspark.python": sys.executable,
        "spark.executorEnv.PYTHONPATH": PROJECT,
        # Both workers from the first task on.
        "spark.cores.max": 2,
        "spark.scheduler.minRegisteredResourcesRatio": 1.0,
        "spark.sql.shuffle.partitions": 2,
        "spark.ui.enabled": "false",
        # The driver's; an executor's is its worker's.
        "spark.local.dir": workspace.folder / "local",
        **(conf or {}),
    }
    command = [SPARK_HOME / "bin/spark-submit", "--master", master, *options]
    command += [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
    command += [PROJECT / "jobs" / f"{job}.py", f"--config={workspace.config}", f"--run-id={run_id}", *flags]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_"))}
    environment |= {"SPARK_HOME": str(SPARK_HOME), "PYTHONPATH": str(PROJECT)}
    _submitted.append(Process(command, workspace.folder / f"{run_id}.log", environment))
    return _submitted[-1]


def end_jobs() -> None:
    """Kill every job that still runs."""
    while _submitted:
        _submitted.pop().kill()


def begin(ingested: Workspace, folder: Path) -> Workspace:
    """A workspace with the same run, of which the same steps are done."""
    folder.mkdir(parents=True, exist_ok=True)
    workspace = ingested.elsewhere(folder)
    shutil.copytree(ingested.output, workspace.output)
    return workspace


def content(workspace: Workspace, run_id: str = "run") -> dict[str, Any]:
    """What readers of a run find: of each id the bytes of its factors, and its recommendations with their bytes."""
    found: dict[str, Any] = {}
    for side in ("user", "item"):
        rows = workspace.rows(f"{side}_factors", run_id)
        found[side] = {row[f"{side}_id"]: np.array(row["features"], np.float32).tobytes() for row in rows}
    found["recommendations"] = {
        row["user_id"]: [(best["item_id"], np.float32(best["score"]).tobytes()) for best in row["recommendations"]]
        for row in workspace.rows("recommendations", run_id)
    }
    found["history"] = [
        {key: value for key, value in record.items() if key != "seconds"}
        for record in workspace.json("metrics.json", run_id)["training"]["iterations"]
    ]
    return found
