"""Memory of the driver, and seconds an iteration, with the users' factors broadcast and exchanged block to block.

Trains on a standalone cluster of two workers of one core, started for the purpose, for growing numbers of users and
the same items. The driver's memory is that of its JVM and its Python (proportional set size, peak); executors are
processes of the workers and do not count.

    python -m scripts.bench_exchange --users 100000 400000 --ratings-a-user 5
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.bench_pipeline import PeakMemory, machine
from tests.cluster.standalone import Cluster
from tests.cluster.submit import end_jobs, submit
from tests.jobs.runner import PROJECT, Workspace

_WAYS = {"broadcast": 1 << 40, "exchanged": 20_000_000}
"""train.max_broadcast_bytes: the items' 10 MB are below either."""
_N_ITEMS = 20_000


def train(cluster: Cluster, folder: Path, ratings: Path, max_bytes: int, rank: int) -> tuple[float, float]:
    """(peak GiB of the driver, median seconds of an iteration) of the steps ingest and train."""
    folder.mkdir()
    workspace = Workspace(
        folder,
        split={"holdout": 0.0},
        train={
            "rank": rank, "max_iter": 5, "num_user_blocks": 4, "num_item_blocks": 4,
            "max_broadcast_bytes": max_bytes, "checkpoint_interval": -1,
        },
    )  # fmt: skip
    conf = {"spark.driver.memory": "6g", "spark.executor.memory": "3g"}
    setting = f"--set=input.path={ratings}"
    for job in ("ingest", "train"):
        process = submit(cluster.url, workspace, setting, job=job, conf=conf)
        peak = PeakMemory(process.pid)
        exit_code, n_bytes = process.wait(), peak.stop()  # in the end, of the training
        if exit_code:
            raise RuntimeError(process.output[-3000:])
    history = workspace.json("metrics.json")["training"]["iterations"]
    return n_bytes / 2**30, statistics.median(record["seconds"] for record in history[1:])


def main() -> None:
    """Start the cluster, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[100_000, 400_000, 1_600_000])
    parser.add_argument("--ratings-a-user", type=int, default=5)
    parser.add_argument("--rank", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = Cluster(folder / "cluster", wants_small_disks=False)
        try:
            print(f"{'users':>10} {'factors MB':>11} {'way':>10} {'driver GiB':>11} {'s an iteration':>15}")
            for n_users in options.users:
                ratings = folder / f"{n_users}.parquet"
                make = [sys.executable, str(PROJECT / "scripts/make_ratings.py"), str(ratings)]
                sizes = [f"--users={n_users}", f"--items={_N_ITEMS}", f"--ratings={n_users * options.ratings_a_user}"]
                subprocess.run([*make, *sizes], check=True, env={**os.environ, "PYTHONPATH": str(PROJECT)})
                for way, max_bytes in _WAYS.items():
                    gib, seconds = train(cluster, folder / f"{n_users}-{way}", ratings, max_bytes, options.rank)
                    megabytes = n_users * options.rank * 4 / 1e6
                    print(f"{n_users:10} {megabytes:11.0f} {way:>10} {gib:11.2f} {seconds:15.2f}", flush=True)
        finally:
            end_jobs()
            cluster.stop()
    print(machine())


if __name__ == "__main__":
    main()
