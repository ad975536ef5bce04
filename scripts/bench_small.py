"""Compare fits, recommendations and predictions on small data with Spark's ALS, in one warm session.

python scripts/bench_small.py --data FOLDER

FOLDER has ml-100k/u.data and ml-1m/ratings.parquet. Both estimators use their defaults except the rank, and read the
same Parquet file. The time of a fit includes one read of both factor tables. Repeats alternate; the table has medians.
"""

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pyspark
from pyspark.ml import recommendation as spark_ml
from pyspark.sql import DataFrame, SparkSession

import mfspark

_TOY = ([1, 1, 2, 2, 3, 3], [1, 2, 1, 3, 2, 3], [5, 3, 4, 1, 2, 5])
_N_100K, _N_1M = 100_000, 1_000_209
_SIZES = [6, 1_000, 10_000, _N_100K, _N_1M]
_SEED = 0


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MFSPARK_DATA"), help="or $MFSPARK_DATA")
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="numbers of ratings")
    parser.add_argument("--ranks", type=int, nargs="+", default=[10, 64])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.data is None and max(options.sizes) > len(_TOY[0]):
        parser.error("--data or MFSPARK_DATA must name the folder of ratings")
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("bench_small")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.extraJavaOptions", "-Xss8m")  # the lineage of Spark's ALS is deep
        .config("spark.python.unix.domain.socket.enabled", "true")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    print("| ratings | rank | step | mfspark, s | Spark, s | Spark / mfspark |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            path = f"{folder}/{size}.parquet"
            pq.write_table(ratings_of(size, options.data), path)
            for rank in options.ranks:
                compare(spark, path, size, rank, options.repeats)
    print(f"\n{machine()}; pyspark {pyspark.__version__}, mfspark {mfspark.__version__} {commit()}")
    spark.stop()


def ratings_of(size: int, data: Path | None) -> pa.Table:
    """`size` ratings from the toy matrix, MovieLens 100K or MovieLens 1M."""
    names = ["user", "item", "rating"]
    if size <= len(_TOY[0]) or data is None:
        table = pa.table(dict(zip(names, _TOY, strict=True)))
    elif size <= _N_100K:
        options = csv.ReadOptions(column_names=[*names, "timestamp"])
        table = csv.read_csv(data / "ml-100k/u.data", options, csv.ParseOptions(delimiter="\t")).select(names)
    else:
        table = pq.read_table(data / "ml-1m/ratings.parquet", columns=["user_id", "item_id", "rating"])
        table = table.rename_columns(names)
    chosen = np.sort(np.random.default_rng(_SEED).permutation(table.num_rows)[:size])
    table = table.take(chosen)
    return table.cast(pa.schema(zip(names, [pa.int64(), pa.int64(), pa.float32()], strict=True)))


def compare(spark: SparkSession, path: str, size: int, rank: int, repeats: int) -> None:
    """Print a row for each step."""
    ratings = spark.read.parquet(path)
    estimators = {"mfspark": mfspark.ALS(rank=rank), "Spark": spark_ml.ALS(rank=rank)}
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in estimators}
    for repeat in range(repeats + 1):
        for name, estimator in estimators.items():
            for step, taken in timed_steps(spark, estimator, ratings).items():
                if repeat > 0:  # the first warms up
                    seconds[name].setdefault(step, []).append(taken)
    for step in seconds["Spark"]:
        ours, theirs = (statistics.median(seconds[name][step]) for name in estimators)
        print(f"| {size:,} | {rank} | {step} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.1f} |", flush=True)


def timed_steps(spark: SparkSession, estimator: Any, ratings: DataFrame) -> dict[str, float]:
    """Seconds of each step; drops the caches of the fit at the end."""
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds[step] = time.perf_counter() - started
        return result

    def fit() -> Any:
        model = estimator.fit(ratings)
        read(model.userFactors)
        read(model.itemFactors)
        return model

    model = timed("fit", fit)
    timed("recommendForAllUsers(10)", lambda: read(model.recommendForAllUsers(10)))
    timed("transform", lambda: read(model.transform(ratings)))
    spark.catalog.clearCache()
    for rdd in spark.sparkContext._jsc.getPersistentRDDs().values():
        rdd.unpersist()
    return seconds


def read(table: DataFrame) -> None:
    """Compute every row and column."""
    table.write.format("noop").mode("overwrite").save()


def machine() -> str:
    """The processor and the number of its cores."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            flags = Path("/proc/cpuinfo").read_text()
            vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
            return f"{line.partition(':')[2].strip()} ({vectors}), {os.cpu_count()} cores"
    return f"{platform.processor()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit of the checkout, if there is one."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


if __name__ == "__main__":
    main()
