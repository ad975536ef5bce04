"""Run a scheduled job for fourteen nights, good and bad ones, and print how each ended.

    python scripts/drill_nights.py [FOLDER]

Each job runs in its own process, as a scheduler would start it. The ratings are generated: 300 users, 120 items, one
file a day. If a night does not end as expected, the script ends with exit code 1. Takes about six minutes on two cores.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PROJECT = Path(__file__).resolve().parent.parent
N_USERS, N_ITEMS, N_FIRST, N_A_DAY = 300, 120, 9_000, 600
TIMEOUT_S = 300.0

CONFIG = """
[input]
path = "{folder}/days"
incremental = true
duplicates = "last"

[columns]
timestamp = "at"

[split]
holdout = 0.1

[train]
rank = 4
max_iter = {max_iter}
checkpoint_interval = 1
engine = "{engine}"

[recommend]
n = 5
fallback = "popular"

[gate]
hold = ["rmse <= mean_and_biases", "rmse <= 1.2 * current", "users >= 0.9 * current"]

[output]
path = "{folder}/out"
keep_runs = 3
report = false
"""


class Ratings:
    """Generates ratings: a matrix of rank 2 plus noise, written as one file a day."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._random = folder, np.random.default_rng(7)
        users, items = self._random.normal(0, 0.7, (N_USERS, 2)), self._random.normal(0, 0.7, (N_ITEMS, 2))
        self._matrix = np.clip(3.5 + users @ items.T + self._random.normal(0, 0.2, (N_USERS, N_ITEMS)), 0.5, 5)

    def write(self, day: int, n: int, name: str = "part-0", *, at: int | None = None, **columns: Any) -> None:
        """Write a file with n ratings of a day.

        columns : functions of (random generator, n) that return the values of a column instead of the correct ones
        """
        pairs = self._random.choice(N_USERS * N_ITEMS, n, replace=False)
        users, items = pairs // N_ITEMS, pairs % N_ITEMS
        table = {
            "user_id": users, "item_id": items, "rating": self._matrix[users, items],
            "at": np.full(n, day if at is None else at),
        }  # fmt: skip
        table |= {key: make(self._random, n) for key, make in columns.items()}
        self.path(day).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), self.path(day) / f"{name}.parquet")

    def path(self, day: int) -> Path:
        """The folder of a day."""
        return self.folder / f"days/day={day:02}"


class Night(NamedTuple):
    """How a night ended."""

    number: int
    what: str
    exit_codes: list[int]
    current: str
    n_served: int


class Drill:
    """Starts the jobs and looks at their output."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ratings = folder, Ratings(folder)
        self.nights: list[Night] = []
        self.set_training(10, "local")

    def set_training(self, max_iter: int, engine: str) -> None:
        """Write the configuration."""
        (self.folder / "job.toml").write_text(CONFIG.format(folder=self.folder, max_iter=max_iter, engine=engine))

    def start(self, name: str, *arguments: str, job: str = "run_pipeline") -> "subprocess.Popen[bytes]":
        """Start a job; its output goes to a file."""
        command = [
            *(Path(sys.executable).parent / "spark-submit", "--properties-file", "conf/spark-defaults.conf"),
            *(f"jobs/{job}.py", "--config", self.folder / "job.toml", "--run-id", name, *arguments),
        ]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYSPARK_PYTHON": sys.executable}
        with (self.folder / "jobs.log").open("ab") as log:
            return subprocess.Popen(
                list(map(str, command)), cwd=PROJECT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, name: str, *arguments: str, job: str = "run_pipeline") -> int:
        """Run a job to its end and return its exit code."""
        return self.start(name, *arguments, job=job).wait(TIMEOUT_S)

    def interrupted(self, name: str, number: int, *arguments: str) -> int:
        """Start a job, send it a signal while it trains, and return its exit code."""
        process = self.start(name, "--resume", *arguments)
        checkpoints = self.folder / f"out/runs/{name}/checkpoint"
        deadline = time.monotonic() + TIMEOUT_S
        while not list(checkpoints.glob("train/iteration-*")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the job of {name} did not start to train; see {self.folder}/jobs.log")
            time.sleep(0.01)
        if number == signal.SIGKILL:  # to both processes of the driver, the JVM and Python
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        return process.wait(TIMEOUT_S)

    @property
    def current(self) -> str:
        """Name of the run that readers use."""
        return (self.folder / "out/CURRENT").read_text().strip()

    def n_served(self) -> int:
        """Number of users with recommendations in the current run."""
        lists = pq.read_table(self.folder / f"out/runs/{self.current}/recommendations", columns=["recommendations"])
        return sum(bool(entries) for entries in lists["recommendations"].to_pylist())

    def play(self, what: str, begin: Callable[[], list[int]], expected: list[int], current: str) -> None:
        """Run one night and print its row; end the script if the night does not end as expected."""
        codes = begin()
        night = Night(len(self.nights) + 1, what, codes, self.current, self.n_served())
        self.nights.append(night)
        print(
            f"| {night.number} | {what} | {', '.join(map(str, codes))} | {night.current} | {night.n_served} |",
            flush=True,
        )
        if codes != expected or night.current != current or night.n_served != N_USERS:
            sys.exit(
                f"night {night.number}: expected exit codes {expected}, CURRENT {current}, {N_USERS} users; see "
                f"{self.folder}/jobs.log"
            )


def play_all(folder: Path) -> list[Night]:
    """Run the fourteen nights in this folder, which must be empty."""
    drill = Drill(folder)
    ratings, play = drill.ratings, drill.play
    print("| night | what happened | exit codes | CURRENT | users served |\n|---|---|---|---|---|")

    def night(name: str, *arguments: str) -> list[int]:
        return [drill.run(name, "--resume", *arguments)]

    def day(number: int, n: int = N_A_DAY, name: str = "part-0", **columns: Any) -> None:
        ratings.write(number, n, name, **columns)

    day(1, N_FIRST)
    play("the first run", lambda: night("n01"), [0], "n01")
    day(2)
    play("one new file", lambda: night("n02"), [0], "n02")
    day(1, 200, "late")
    play("a late file in an old folder", lambda: night("n03"), [0], "n03")
    day(2)
    play("a file corrected in place", lambda: night("n04"), [0], "n04")
    play("no new file: nothing published", lambda: night("n05"), [0], "n04")

    whole = ratings.path(1).rename(folder / "whole")
    day(1, N_FIRST, user_id=lambda random, n: random.integers(0, N_USERS * 3 // 4, n))
    day(2, user_id=lambda random, n: random.integers(0, N_USERS * 3 // 4, n))
    play("a quarter of the users missing: held by the gate", lambda: night("n06"), [6], "n04")
    shutil.rmtree(ratings.path(1))
    whole.rename(ratings.path(1))
    day(2)
    play("the same files, corrected", lambda: night("n07"), [0], "n07")

    day(8, rating=lambda random, n: np.where(random.random(n) < 0.3, np.nan, 3.0))
    play("a third of the new rows unusable: the job fails", lambda: night("n08"), [3], "n07")
    day(9)
    without = '--set=input.exclude=["*/day=08/*"]'
    play("the bad file excluded by name", lambda: night("n09", without), [0], "n09")

    drill.set_training(400, "rdd")
    for number, signal_, code in ((10, signal.SIGKILL, -signal.SIGKILL), (11, signal.SIGTERM, 128 + signal.SIGTERM)):
        day(number)
        play(
            f"{signal_.name} during training, then --resume",
            lambda name=f"n{number}", signal_=signal_: [
                drill.interrupted(name, signal_, without),
                *night(name, without),
            ],
            [code, 0],
            f"n{number}",
        )
    drill.set_training(10, "local")

    day(12, N_FIRST, rating=lambda random, n: random.uniform(0.5, 5, n))
    rules = '["rmse <= mean_and_biases", "rmse <= 1.2 * current"]'
    play(
        "random ratings: held by the gate, published by mistake, rolled back",
        lambda: [
            *night("n12", without), *night("n12", without, f"--set=gate.accept={rules}"),
            drill.run("n11", job="rollback"),
        ],
        [6, 0, 0],
        "n11",
    )  # fmt: skip
    day(13)
    without_both = (without, '--set=input.exclude_runs=["n12"]')
    play("the files of the bad run excluded by its name", lambda: night("n13", *without_both), [0], "n13")
    day(14)
    play("one new file", lambda: night("n14", *without_both), [0], "n14")
    return drill.nights


def main() -> None:
    """Run as a command."""
    if len(sys.argv) > 1:
        play_all(Path(sys.argv[1]).resolve())
        return
    with tempfile.TemporaryDirectory(prefix="mfspark-drill-") as folder:
        play_all(Path(folder))


if __name__ == "__main__":
    main()
