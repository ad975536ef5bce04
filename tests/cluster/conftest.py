"""One cluster for all tests of this folder, and the run that no fault disturbed."""

import os
import subprocess
import sys
import sysconfig
from typing import NamedTuple

import pytest

from tests.cluster.drill import NONE, Solved, submit_with_fault
from tests.cluster.standalone import Cluster
from tests.cluster.submit import begin, content, end_jobs, make_workspace, submit
from tests.jobs.runner import PROJECT, Workspace


class Undisturbed(NamedTuple):
    """A good run on the cluster."""

    workspace: Workspace
    content: dict
    solved: Solved
    """The blocks that were solved."""


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory):
    if sys.platform != "linux":
        pytest.skip("needs /proc to end what a killed process leaves behind")
    cluster = Cluster(tmp_path_factory.mktemp("cluster") / "standalone")
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def ended_jobs():
    """No job outlives its test, also where the test fails."""
    yield
    end_jobs()


@pytest.fixture
def cluster(shared_cluster):
    """The cluster, all workers running."""
    shared_cluster.mend()
    return shared_cluster


@pytest.fixture(scope="session")
def ingested(tmp_path_factory) -> Workspace:
    """A run whose ratings are split and stand ready for training; read only."""
    workspace = make_workspace(tmp_path_factory.mktemp("ingested"))
    job = submit("local[2]", workspace, job="ingest")
    assert job.wait() == 0, job.output
    return workspace


@pytest.fixture(scope="session")
def undisturbed(shared_cluster, ingested, tmp_path_factory) -> Undisturbed:
    shared_cluster.mend()
    folder = tmp_path_factory.mktemp("undisturbed")
    workspace, solved = begin(ingested, folder), Solved(folder / "solved")
    job = submit_with_fault(shared_cluster, workspace, NONE, solved)
    assert job.wait() == 0, job.output
    return Undisturbed(workspace, content(workspace), solved)


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """environment.tar.gz and mfspark.zip."""
    folder = tmp_path_factory.mktemp("ship")
    done = subprocess.run([PROJECT / "scripts/pack_environment", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def bare_python(tmp_path):
    """A Python with all packages of this one but mfspark, which is installed by a .pth file that nobody reads there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare/bin/python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([python, "-c", where], text=True).strip()
    with open(f"{packages}/packages.pth", "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run(
        [python, "-c", "import numba, pyarrow, mfspark"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'mfspark'" in found.stderr
    return python
