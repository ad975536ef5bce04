"""Measure memory, bytes and seconds of a training and compare them with scripts/plan_capacity.py.

Starts a standalone cluster of two workers with one core each, and trains at several sizes, with the factors
broadcast, and those of the users or of both sides exchanged block to block. It measures

    driver, executor JVM    the live heap after a collection, and the driver's Python (proportional set size): peaks
    executor Python         proportional set size of an executor's Python processes: peak
    moved                   bytes over the network interface of an iteration: median
    seconds                 of an iteration: median

The last two use the early iterations without the first, because later garbage collections disturb the training. Each
worker has its own network address, and Python workers talk to their JVM through Unix sockets. So the interface shows
the traffic of a network, plus any other traffic on the loopback interface.

    python -m scripts.bench_capacity --sizes 200000,20000,4e6 500000,20000,8e6 1500000,20000,16e6
    python -m scripts.bench_capacity --ways both-exchanged --rank 8 --sizes 1e6,1e6,1e7 3e6,3e6,2e7 1e7,1e7,4e7
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from scripts import plan_capacity
from scripts.bench_pipeline import machine, process_family, proportional_bytes
from tests.cluster.processes import Process
from tests.cluster.standalone import Cluster
from tests.cluster.submit import LOG_SETTINGS, end_jobs, submit
from tests.jobs.runner import PROJECT, Workspace

_WAYS = {"broadcast": 1 << 40, "users-exchanged": 20_000_000, "both-exchanged": 1}
"""train.max_broadcast_bytes; the item factors of the default sizes are between the last two."""
_ITERATIONS, _UNDISTURBED = 8, 5
_EXECUTOR_GIB, _DRIVER_GIB = 3, 6
_SAMPLE_SECONDS = 1.5
_FIGURES = (
    "driver GiB",
    "executor JVM GiB",
    "executor Python GiB",
    "moved GiB an iteration",
    "seconds an iteration",
)


class Watch:
    """Samples a job and its executors on its own threads."""

    def __init__(self, job: Process, cluster: Cluster) -> None:
        self._job, self._cluster = job, cluster
        self.peaks = dict.fromkeys(_FIGURES[:3], 0.0)
        self._traffic: list[int] = []
        self._is_running = True
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._sample, self._count)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._is_running = False
        for thread in self._threads:
            thread.join()

    @property
    def moved(self) -> float:
        """GiB per iteration."""
        return statistics.median(after - before for before, after in pairwise(self._traffic[:_UNDISTURBED])) / 2**30

    def _count(self) -> None:
        """Record the traffic when the log reports an iteration."""
        while self._is_running:
            n_lines = self._job.output.count(" iteration ")
            while len(self._traffic) < n_lines:
                self._traffic.append(_loopback_bytes())
            time.sleep(0.01)

    def _sample(self) -> None:
        while self._is_running:
            if len(self._traffic) < _UNDISTURBED:
                time.sleep(0.1)
                continue
            driver_jvm, driver_python = _memory(self._job.pid, "SparkSubmit")
            executors = [
                _memory(worker.pid, "CoarseGrainedExecutorBackend") for worker in self._cluster.workers.values()
            ]
            seen = (
                driver_jvm + driver_python,
                max(jvm for jvm, _ in executors),
                max(python for _, python in executors),
            )
            for name, n_bytes in zip(self.peaks, seen, strict=True):
                self.peaks[name] = max(self.peaks[name], n_bytes / 2**30)
            time.sleep(_SAMPLE_SECONDS)


def _memory(root: int, jvm_class: str) -> tuple[float, float]:
    """(live heap of the JVM of this class, bytes of the Python processes) among the descendants of a process."""
    heap = python = 0.0
    for pid in process_family(root):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile
        if jvm_class.encode() in command and b"java" in command.split(b"\0")[0]:
            heap += _live_heap(pid)
        elif b"python" in command.split(b"\0")[0]:
            python += proportional_bytes(pid)
    return heap, python


def _live_heap(pid: int) -> float:
    """Used bytes of a JVM's heap after a collection; 0 if it just ended."""
    subprocess.run(["jcmd", str(pid), "GC.run"], capture_output=True, check=False)
    done = subprocess.run(["jstat", "-gc", str(pid)], capture_output=True, text=True, check=False)
    if done.returncode:
        return 0.0
    names, values = (line.split() for line in done.stdout.splitlines()[:2])
    kibibytes = dict(zip(names, values, strict=True))
    return 1024 * sum(float(kibibytes[name]) for name in ("S0U", "S1U", "EU", "OU"))


def _loopback_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def train(cluster: Cluster, folder: Path, ratings: Path, max_bytes: int, rank: int) -> dict[str, float]:
    """The measured figures of one training."""
    folder.mkdir()
    workspace = Workspace(
        folder,
        split={"holdout": 0.0},
        train={
            "rank": rank, "max_iter": _ITERATIONS, "num_user_blocks": 0, "num_item_blocks": 0,
            "max_broadcast_bytes": max_bytes, "checkpoint_interval": -1,
        },
    )  # fmt: skip
    conf = {
        "spark.driver.memory": f"{_DRIVER_GIB}g",
        "spark.executor.memory": f"{_EXECUTOR_GIB}g",
        # Like users run it, unlike the tests.
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile=file:{LOG_SETTINGS}",
        "spark.executor.extraJavaOptions": "",
    }
    setting = f"--set=input.path={ratings}"
    job = submit(cluster.url, workspace, setting, job="ingest", conf=conf)
    if job.wait():
        raise RuntimeError(job.output[-3000:])
    job = submit(cluster.url, workspace, setting, job="train", conf=conf)
    with Watch(job, cluster) as watch:
        exit_code = job.wait()
    if exit_code:
        raise RuntimeError(job.output[-3000:])
    history = workspace.json("metrics.json")["training"]["iterations"]
    seconds = statistics.median(record["seconds"] for record in history[1:_UNDISTURBED])
    return {**watch.peaks, "moved GiB an iteration": watch.moved, "seconds an iteration": seconds}


def reckoned(work: plan_capacity.Work, way: str) -> dict[str, float]:
    """The figures that scripts/plan_capacity.py plans for the same training."""
    cluster = plan_capacity.Cluster(
        executors=2, cores=1, memory_gib=_EXECUTOR_GIB, driver_gib=_DRIVER_GIB, network_gbytes=10.0,
        max_broadcast_bytes=_WAYS[way],
    )  # fmt: skip
    figures = plan_capacity.plan(work, cluster)
    return {name: float(figures[name]) for name in _FIGURES}


def main() -> None:
    """Start the cluster, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["200000,20000,4e6", "500000,20000,8e6", "1500000,20000,16e6"])
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--ways", nargs="+", choices=_WAYS, default=["broadcast", "users-exchanged"])
    options = parser.parse_args()
    errors: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = Cluster(folder / "cluster", wants_small_disks=False)
        try:
            for size in options.sizes:
                work = plan_capacity.Work(*(float(number) for number in size.split(",")), rank=options.rank)
                ratings = folder / f"{size}.parquet"
                make = [sys.executable, str(PROJECT / "scripts/make_ratings.py"), str(ratings)]
                sizes = [f"--{key}={int(asdict(work)[key])}" for key in ("users", "items", "ratings")]
                subprocess.run([*make, *sizes], check=True, env={**os.environ, "PYTHONPATH": str(PROJECT)})
                for way in options.ways:
                    measured = train(cluster, folder / f"{size}-{way}", ratings, _WAYS[way], options.rank)
                    planned = reckoned(work, way)
                    print(f"{size}, {way}")
                    for figure, value in measured.items():
                        errors.append(planned[figure] / value - 1)
                        row = f"{figure:24} measured {value:7.3f}  planned {planned[figure]:7.3f}  {errors[-1]:+5.0%}"
                        print("   ", row, flush=True)
        finally:
            end_jobs()
            cluster.stop()
    print(f"largest error {max(map(abs, errors)):.0%}")
    print(machine())


if __name__ == "__main__":
    main()
