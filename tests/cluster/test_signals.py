"""SIGTERM on a cluster: the job ends in order, and the next attempt goes on to the same bytes."""

import os
import re
import signal
import time

import pytest

from tests.cluster.submit import begin, content, submit

pytestmark = pytest.mark.cluster

END_S = 10.0


@pytest.mark.parametrize("n_signals", [1, 2])
def test_a_job_that_is_stopped_goes_on_to_the_same_bytes(cluster, ingested, undisturbed, tmp_path, n_signals):
    workspace = begin(ingested, tmp_path / "job")
    job = submit(cluster.url, workspace, "--resume")
    job.wait_for("(iteration 2/)")
    started = time.monotonic()
    for _ in range(n_signals):
        os.kill(job.pid, signal.SIGTERM)
    assert job.wait() % 256 == 143, job.output
    assert time.monotonic() - started < END_S
    assert re.search(r"^mfspark: stopped by SIGTERM in train, after iteration \d; continue with", job.output, re.M)
    assert workspace.json("manifest.json")["status"] == "interrupted"
    assert not list(workspace.output.glob(".lock-*"))
    job = submit(cluster.url, workspace, "--resume")
    assert job.wait() == 0, job.output
    assert content(workspace) == undisturbed.content
