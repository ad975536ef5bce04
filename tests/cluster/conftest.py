"""One cluster for all tests of this folder, and the run that no fault disturbed."""

import sys
from typing import NamedTuple

import pytest

from tests.cluster.drill import NONE, Solved, submit_with_fault
from tests.cluster.standalone import Cluster
from tests.cluster.submit import begin, content, end_jobs, make_workspace, submit
from tests.jobs.runner import Workspace


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
