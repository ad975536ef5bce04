"""mfspark through a Spark Connect server, in front of a cluster whose workers do not have it."""

import json
import subprocess
import sys

import pytest

from tests.cluster.connect import ConnectServer
from tests.jobs.runner import PROJECT

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("name", ["mfspark.zip", "environment.tar.gz"])
def test_mfspark_reaches_the_executors_as_an_artifact(cluster, packed, bare_python, tmp_path, name):
    server = ConnectServer(
        cluster.url,
        tmp_path / "server",
        bare_python,
        **{
            "spark.executorEnv.PYTHONPATH": "",
            "spark.executorEnv.XDG_CACHE_HOME": tmp_path / "cache",
            "spark.cores.max": 2,
            "spark.executor.memory": "512m",
        },
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster.connect_client", server.url, packed / name],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "executors behind the Spark Connect server reports 'No module named 'mfspark''" in found["before"]
    assert (found["users"], found["same"]) == (200, True)
