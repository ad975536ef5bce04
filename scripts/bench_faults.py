"""Measure the cost of faults for a run on a standalone cluster of two workers.

Each fault of tests/cluster strikes in the middle of a new run. A run survives if it ends with exit code 0 and the same
bytes as an undisturbed run. The table shows the blocks that were solved again (a run solves 24: two per half-iteration,
six iterations) and the seconds lost against the fastest undisturbed run.

    python -m scripts.bench_faults --repeats 3
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.cluster.drill import FAULTS, NONE, STEP_SIGNS, Fault, Solved, kill_driver, submit_with_fault
from tests.cluster.standalone import Cluster
from tests.cluster.submit import begin, content, end_jobs, make_workspace, submit
from tests.jobs.runner import Workspace


class Trial(NamedTuple):
    """One run."""

    exit_code: int
    content: dict[str, object] | None
    n_blocks: int
    seconds: float


def attempt(workspace: Workspace, disturb: Callable[[Workspace, Solved], int]) -> Trial:
    """Disturb one run and return its result."""
    solved, started = Solved(workspace.folder / "solved"), time.monotonic()
    exit_code = disturb(workspace, solved)
    seconds = time.monotonic() - started
    return Trial(exit_code, None if exit_code else content(workspace), solved.n_blocks, seconds)


def strikes(cluster: Cluster, fault: Fault) -> Callable[[Workspace, Solved], int]:
    """A fault on the executors."""
    return lambda workspace, solved: submit_with_fault(cluster, workspace, fault, solved).wait()


def driver_dies(cluster: Cluster, step: str) -> Callable[[Workspace, Solved], int]:
    """The driver is killed in a step; the run is resumed."""

    def disturb(workspace: Workspace, solved: Solved) -> int:
        kill_driver(cluster, workspace, step, solved)
        return submit_with_fault(cluster, workspace, NONE, solved).wait()

    return disturb


def measure(cluster: Cluster, folder: Path, n_repeats: int) -> None:
    """Print the table."""
    ingested = make_workspace(folder / "ingested")
    assert submit("local[2]", ingested, job="ingest").wait() == 0
    cases = {f"{name}": strikes(cluster, fault) for name, fault in FAULTS.items()}
    cases |= {f"driver killed: {step}": driver_dies(cluster, step) for step in STEP_SIGNS}

    def repeat(name: str, disturb: Callable[[Workspace, Solved], int]) -> list[Trial]:
        trials = []
        for number in range(n_repeats):
            cluster.mend()
            # The ingest step is part of the run only if it is the disturbed step.
            place = folder / f"{name}-{number}"
            workspace = make_workspace(place) if name.endswith("ingest") else begin(ingested, place)
            trials.append(attempt(workspace, disturb))
            end_jobs()
        return trials

    undisturbed = {
        "": repeat("undisturbed", strikes(cluster, NONE)),
        "ingest": repeat("undisturbed from ingest", strikes(cluster, NONE)),
    }
    print(f"{'fault':28} tried survived  blocks again  seconds lost (median, most)")
    for name, disturb in cases.items():
        expected = undisturbed["ingest" if name.endswith("ingest") else ""]
        trials = repeat(name, disturb)
        survived = sum(trial.exit_code == 0 and trial.content == expected[0].content for trial in trials)
        lost = [trial.seconds - min(good.seconds for good in expected) for trial in trials]
        again = statistics.median(trial.n_blocks - expected[0].n_blocks for trial in trials)
        print(
            f"{name:28} {len(trials):5} {survived:8} {again:13g}  {statistics.median(lost):5.1f} {max(lost):5.1f}",
            flush=True,
        )


def main() -> None:
    """Start the cluster, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "cluster")
        try:
            measure(cluster, Path(folder), options.repeats)
        finally:
            end_jobs()
            cluster.stop()


if __name__ == "__main__":
    main()
