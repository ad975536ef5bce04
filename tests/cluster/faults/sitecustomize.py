"""Python imports this at its start wherever it is on the path: on the executors of a cluster that a test wants to fail.

Each block that an executor solves leaves a numbered file in FAULT_FOLDER: its stage and partition, and in a line of its
own the executor's disk. At the numbers from FAULT_FROM to FAULT_TO the fault FAULT strikes: the block has been solved,
and its result is lost.
"""

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark import TaskContext

from mfspark.training.als import AlternatingLeastSquares

_HOOK = AlternatingLeastSquares, "update_block"
_FOLDER = Path(os.environ["FAULT_FOLDER"])
_STRUCK = range(int(os.environ["FAULT_FROM"]), int(os.environ["FAULT_TO"]) + 1)


def _note_block() -> int:
    """Take the next number, the executors' processes together."""
    task = TaskContext.get()
    for number in itertools.count(len(list(_FOLDER.iterdir()))):
        try:
            with (_FOLDER / f"{number:06}").open("x") as file:
                file.write(f"{task.stageId()} {task.partitionId()}\n{os.environ['SPARK_LOCAL_DIRS']}")
            return number
        except FileExistsError:
            pass  # another process was faster
    raise AssertionError


def _parent_of(process: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(process)]))


def kill_python_worker() -> None:
    """As the kernel does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_executor() -> None:
    """The JVM that started the daemon that started this process."""
    os.kill(_parent_of(os.getppid()), signal.SIGKILL)


def lose_machine() -> None:
    """The Worker, its executor, and what they kept on disk."""
    executor = _parent_of(os.getppid())
    worker = _parent_of(executor)
    os.kill(worker, signal.SIGKILL)
    os.kill(executor, signal.SIGKILL)
    for blocks in _local_dirs():
        shutil.rmtree(blocks.parent.parent)


def fill_disk() -> None:
    """Leave no byte where the executor keeps its blocks, shuffles and broadcasts."""
    (blocks,) = _local_dirs()
    with (blocks / "filling").open("wb", buffering=0) as file:
        while True:  # until the error
            file.write(bytes(1 << 20))


def exhaust_memory() -> None:
    """More than spark.executor.pyspark.memory."""
    bytearray(1 << 40)


def oversleep() -> None:
    """Longer than any test waits."""
    time.sleep(3600)


def no_fault() -> None:
    """The undisturbed run, whose blocks are counted too."""


def _local_dirs() -> list[Path]:
    return [Path(folder) for folder in os.environ["SPARK_LOCAL_DIRS"].split(",")]


def _strike_after(solve: Callable[..., Any], strike: Callable[[], None]) -> Callable[..., Any]:
    def solve_and_strike(*arguments: Any) -> Any:
        update = solve(*arguments)
        if _note_block() in _STRUCK:
            strike()
        return update

    return solve_and_strike


setattr(*_HOOK, _strike_after(getattr(*_HOOK), globals()[os.environ["FAULT"]]))
