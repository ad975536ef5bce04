"""Measure task times of a half-iteration when one user has a tenth of all ratings and everybody rated one item.

Trains twice, each time in a fresh session: once with very long rows split over several blocks (the default), once with
whole rows. Reads the time of each task from Spark's event log, without the first task of each Python worker, which also
loads the other side's factors. The long rows are in the middle of their sides.

    python scripts/bench_skew.py --users 300000 --blocks 32
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_N_ITEMS = 250_000
_RATINGS_OF_OTHERS = 6
_ITERATIONS = 3
_CORES = 2


def write_ratings(path: Path, n_users: int) -> None:
    """One user rates every item, every user rates one item, and each user rates some others."""
    random = np.random.default_rng(0)
    everyone = np.arange(n_users, dtype=np.int64)
    users = np.concatenate([np.full(_N_ITEMS, n_users // 2), everyone, np.repeat(everyone, _RATINGS_OF_OTHERS)])
    others = random.integers(0, _N_ITEMS, n_users * _RATINGS_OF_OTHERS)
    items = np.concatenate([np.arange(_N_ITEMS), np.full(n_users, _N_ITEMS // 2), others])
    ratings = random.integers(1, 11, users.size).astype(np.float32) / 2
    pq.write_table(pa.table({"user": users, "item": items, "rating": ratings}), path, row_group_size=1 << 18)


def train(ratings: Path, events: Path, blocks: int, rank: int, is_split: bool) -> None:
    """Train once with Spark's event log on."""
    from pyspark.sql import SparkSession

    from mfspark import ALS
    from mfspark.blocks import index

    if not is_split:
        index._LEAST_SPLIT = 1 << 62
    session = SparkSession.builder.master(f"local[{_CORES}]").config("spark.driver.memory", "4g")
    session = session.config("spark.eventLog.enabled", "true").config("spark.eventLog.dir", events.as_uri())
    session = session.config("spark.eventLog.compress", "false")
    spark = session.config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false").getOrCreate()
    ALS(rank=rank, maxIter=_ITERATIONS, engine="rdd", numUserBlocks=blocks, numItemBlocks=blocks).fit(
        spark.read.parquet(str(ratings))
    )
    spark.stop()


def task_seconds(events: Path, description: str) -> list[float]:
    """Seconds of each task of the jobs with this description, without the first task on each core."""
    found: dict[int, list[tuple[int, float]]] = defaultdict(list)
    stages: set[int] = set()
    for path in (path for path in events.rglob("*") if path.is_file() and path.suffix != ".crc"):
        for line in path.read_text().splitlines():
            if not line.startswith("{"):
                continue
            event = json.loads(line)
            if event["Event"] == "SparkListenerJobStart":
                if event["Properties"].get("spark.job.description") == description:
                    stages |= set(event["Stage IDs"])
            elif event["Event"] == "SparkListenerTaskEnd":
                times = event["Task Info"]
                seconds = (times["Finish Time"] - times["Launch Time"]) / 1000
                found[event["Stage ID"]].append((times["Launch Time"], seconds))
    tasks = sorted(task for stage in stages for task in found[stage])
    return [seconds for _, seconds in tasks[_CORES:]]


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=300_000)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        ratings, events, is_split = options.child
        train(Path(ratings), Path(events), options.blocks, options.rank, is_split == "split")
        return
    with tempfile.TemporaryDirectory() as name:
        ratings = Path(name) / "ratings.parquet"
        write_ratings(ratings, options.users)
        for is_split in ("whole", "split"):
            events = Path(name) / is_split
            events.mkdir()
            command = [sys.executable, __file__, f"--blocks={options.blocks}", f"--rank={options.rank}"]
            subprocess.run([*command, "--child", ratings, events, is_split], check=True)
            for side in ("item", "user"):
                seconds = task_seconds(events, f"train: iteration {_ITERATIONS}/{_ITERATIONS}, {side}s")
                print(
                    f"{is_split:6} {side} half: {len(seconds)} tasks, median {statistics.median(seconds):.3f} s, "
                    f"longest {max(seconds):.3f} s, ratio {max(seconds) / statistics.median(seconds):.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
