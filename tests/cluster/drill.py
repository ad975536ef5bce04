"""Faults: how each is made to strike the executors of a running job, and what a run looks like that has met one."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.processes import Process, wait_until
from tests.cluster.standalone import Cluster
from tests.cluster.submit import N_BLOCKS, submit
from tests.jobs.runner import PROJECT, Workspace

HOOK_PATH = Path(__file__).parent / "faults"
# In the middle of the items of the third iteration: some blocks of the half-iteration are solved, others are not.
FIRST_STRUCK = 2 * 2 * N_BLOCKS + 1
KILLED_AFTER = 3
"""The iteration after which the driver dies."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and the settings under which it can."""

    strike: str
    """Name of a function in faults/sitecustomize.py."""
    conf: dict[str, object] = field(default_factory=dict)


NONE = Fault("no_fault")
FAULTS = {
    "Python worker killed": Fault("kill_python_worker"),
    "executor killed": Fault("kill_executor"),
    "machine lost": Fault("lose_machine"),
    # The next attempt must not go where the disk is full.
    "disk full": Fault("fill_disk", {"spark.excludeOnFailure.enabled": "true"}),
    "out of memory": Fault("exhaust_memory", {"spark.executor.pyspark.memory": "3g"}),
    "straggler": Fault(
        "oversleep",
        {"spark.speculation": "true", "spark.speculation.quantile": 0.5, "spark.speculation.minTaskRuntime": "1s"},
    ),
}


class Solved:
    """The blocks that executors have solved so far, by the files that the hook left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    @property
    def n_blocks(self) -> int:
        """Number of solved blocks, those that were lost included."""
        return len(list(self.folder.iterdir()))

    @property
    def n_copies(self) -> int:
        """Greatest number of times that one task was run."""
        return max(Counter(task for task, _ in self._notes()).values())

    @property
    def n_executors(self) -> int:
        """Number of executors that have solved any."""
        return len({executor for _, executor in self._notes()})

    def _notes(self) -> list[list[str]]:
        return [path.read_text().splitlines() for path in self.folder.iterdir()]


def submit_with_fault(
    cluster: Cluster, workspace: Workspace, fault: Fault, solved: Solved, n_strikes: int = 1
) -> Process:
    """Go on with a run under a fault that strikes so many blocks, from FIRST_STRUCK on."""
    conf = {
        "spark.executorEnv.PYTHONPATH": f"{HOOK_PATH}:{PROJECT}",
        "spark.executorEnv.FAULT": fault.strike,
        "spark.executorEnv.FAULT_FOLDER": solved.folder,
        "spark.executorEnv.FAULT_FROM": FIRST_STRUCK,
        "spark.executorEnv.FAULT_TO": FIRST_STRUCK + n_strikes - 1,
    }
    return submit(cluster.url, workspace, "--resume", conf=conf | fault.conf)


STEP_SIGNS: dict[str, Callable[[str, Path], object]] = {
    "ingest": lambda _, run: list(run.glob("ratings/_temporary/**/*.parquet")),
    "train": lambda output, _: f"iteration {KILLED_AFTER}/" in output,
    "recommend": lambda _, run: list(run.glob("recommendations/_temporary")),
    "evaluate": lambda output, _: "evaluate: started" in output,
}
"""How to see, from a job's output and its run's folder, that it is in the middle of a step."""


def kill_driver(cluster: Cluster, workspace: Workspace, step: str, solved: Solved) -> str:
    """Go on with a run, kill its driver in the middle of a step, and give what it printed until then."""
    job = submit_with_fault(cluster, workspace, NONE, solved)
    run = workspace.output / "runs/run"
    wait_until(lambda: STEP_SIGNS[step](job.output, run), f"a sign of {step}")
    job.kill()
    return job.output
