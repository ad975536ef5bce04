"""What a cluster does to a run: every fault strikes once in the middle of a solve, and the bytes stay the same."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.asserts import assert_factors_close
from tests.cluster.drill import FAULTS, KILLED_AFTER, NONE, STEP_SIGNS, Solved, kill_driver, submit_with_fault
from tests.cluster.submit import N_ITERATIONS, begin, content, make_workspace, submit

EXCLUDED_TIMEOUT = "spark.scheduler.excludeOnFailure.unschedulableTaskSetTimeout"

pytestmark = pytest.mark.cluster


def test_a_cluster_and_a_local_session_give_the_same_bytes(undisturbed, tmp_path):
    workspace = make_workspace(tmp_path)
    job = submit("local[2]", workspace)
    assert job.wait() == 0, job.output
    assert content(workspace) == undisturbed.content


def test_blocks_are_on_all_executors_though_one_has_read_the_ratings(undisturbed):
    assert undisturbed.solved.n_executors == 2


def require_small_disks(cluster):
    if not cluster.has_small_disks:
        pytest.skip("needs the right to mount a small disk: root, or user namespaces")


@pytest.mark.parametrize("name", FAULTS)
def test_run_survives(cluster, ingested, undisturbed, tmp_path, name):
    if name == "disk full":
        require_small_disks(cluster)
    workspace, solved = begin(ingested, tmp_path), Solved(tmp_path / "solved")
    job = submit_with_fault(cluster, workspace, FAULTS[name], solved)
    assert job.wait() == 0, job.output
    assert workspace.json("manifest.json")["status"] == "complete"
    assert content(workspace) == undisturbed.content
    # The fault did strike: at least the block whose result was lost was solved again.
    assert solved.n_blocks > undisturbed.solved.n_blocks
    assert solved.n_copies > 1


def test_factors_that_are_kept_on_executors_survive_one_of_them(cluster, undisturbed, tmp_path):
    workspace, solved = make_workspace(tmp_path, max_broadcast_bytes=0), Solved(tmp_path / "solved")
    job = submit_with_fault(cluster, workspace, FAULTS["executor killed"], solved)
    assert job.wait() == 0, job.output
    assert "200 users in 2 blocks" in job.output
    assert solved.n_copies > 1
    for side in ("user", "item"):
        found, expected = (
            {row: np.frombuffer(factors, np.float32) for row, factors in run[side].items()}
            for run in (content(workspace), undisturbed.content)
        )
        assert_factors_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("disk full", "a disk under spark.local.dir is full: .*No space left on device; free space"),
        ("out of memory", "memory ran out: MemoryError; raise spark.executor.memory,"),
    ],
)
def test_a_fault_that_strikes_each_time_ends_the_run_with_one_clear_line(cluster, ingested, tmp_path, name, message):
    if name == "disk full":
        require_small_disks(cluster)
    workspace, solved = begin(ingested, tmp_path), Solved(tmp_path / "solved")
    # Spark waits two minutes for an executor that has not failed yet.
    fault = replace(FAULTS[name], conf=FAULTS[name].conf | {EXCLUDED_TIMEOUT: "1s"})
    job = submit_with_fault(cluster, workspace, fault, solved, n_strikes=1000)
    assert job.wait() == 4, job.output
    (line,) = [line for line in job.output.splitlines() if line.startswith("mfspark: ")]
    assert re.match(f"mfspark: TrainingError: .*{message}.*; then continue with --resume", line)
    assert workspace.current() is None
    assert workspace.json("manifest.json")["error"]["step"] == "train"


def test_run_goes_on_after_its_driver_was_killed_in_each_step(cluster, undisturbed, tmp_path):
    workspace, solved = make_workspace(tmp_path), Solved(tmp_path / "solved")
    outputs = {}
    for step in STEP_SIGNS:
        outputs[step] = kill_driver(cluster, workspace, step, solved)
        assert workspace.current() is None, step
        assert step not in workspace.json("manifest.json")["steps"]
    # The one after the death in training; that may have come before the checkpoint of the last iteration it printed.
    assert "resuming from the checkpoint of iteration" in outputs["recommend"]
    assert f"iteration {KILLED_AFTER - 1}/{N_ITERATIONS}" not in outputs["recommend"]
    assert f"iteration {KILLED_AFTER + 1}/{N_ITERATIONS}" in outputs["recommend"]
    job = submit_with_fault(cluster, workspace, NONE, solved)
    assert job.wait() == 0, job.output
    for step in ("ingest", "train", "recommend"):
        assert f"{step}: done by an earlier attempt" in job.output
    assert content(workspace) == undisturbed.content
