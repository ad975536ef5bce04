"""Compare fits through Spark Connect: ours, Spark's ALS, and our `rdd` engine in a classic session, in one run.

Each fit has a fresh client and, on Spark Connect, a fresh server on this machine, both with an empty cache of compiled
kernels. The clock starts when the session is ready and stops when the factors are written as Parquet. The memory is the
peak of the proportional set sizes, sampled: of the client, and of the driver (for Spark Connect the server) with its
Python workers.

    python -m scripts.bench_connect build/ml20m.parquet --rank 64
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.ml import recommendation
from pyspark.sql import SparkSession

from mfspark import ALS
from scripts.bench_pipeline import (
    PeakMemory,
    als_settings,
    machine,
    objective,
    process_family,
    proportional_bytes,
    session_builder,
)
from tests.cluster.connect import ConnectServer

CONTENDERS = ("connect", "spark", "rdd")
"""Our engine `connect`, Spark's ALS through Spark Connect, and our engine `rdd`."""


class PeakBesides(PeakMemory):
    """The peak of the descendants of a process."""

    def _bytes(self) -> int:
        return sum(proportional_bytes(pid) for pid in process_family(self._pid)[1:])


class PeakAlone(PeakMemory):
    """The peak of a process without its descendants."""

    def _bytes(self) -> int:
        return proportional_bytes(self._pid)


def fit(options: argparse.Namespace) -> dict[str, object]:
    """One fit, in the process of the client."""
    is_classic = options.child == "rdd"
    builder = session_builder(options) if is_classic else SparkSession.builder.remote(options.url)
    spark = builder.getOrCreate()
    estimator = _estimator(options)
    spark.range(1).count()
    started = time.monotonic()
    ratings = spark.read.parquet(str(options.ratings.absolute()))
    model = estimator.fit(ratings)
    model.userFactors.write.parquet(f"{options.folder}/users")
    model.itemFactors.write.parquet(f"{options.folder}/items")
    result: dict[str, object] = {"fit": time.monotonic() - started}
    if options.child != "spark":
        result["iterations"] = [round(record.seconds, 2) for record in model.summary.history]
        result["phases"] = {phase: round(seconds, 2) for phase, seconds in model.summary.seconds.items()}
    spark.stop()
    return result


def _estimator(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    if options.child == "spark":
        return recommendation.ALS(**als_settings(options))
    return ALS(engine=options.child, **als_settings(options))


@contextmanager
def _server(options: argparse.Namespace, name: str, folder: Path) -> Iterator[tuple[str, int] | None]:
    """Address and process of the server; None for a classic session."""
    if name == "rdd":
        yield None
        return
    settings = {"spark.driver.memory": options.memory, "spark.driver.extraJavaOptions": ""}
    server = ConnectServer(f"local[{options.cores}]", folder / "server", **settings)
    try:
        yield server.url, server.pid
    finally:
        server.stop()


def measure(name: str, options: argparse.Namespace, arguments: list[str]) -> dict:
    """Run one contender; its result, with the memory of both sides and the objective of the factors."""
    folder = Path(tempfile.mkdtemp(prefix="mfspark-bench-"))
    settings = {"PYSPARK_PYTHON": sys.executable, "OPENBLAS_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(folder / "cache")}
    os.environ.update(settings)  # the server has them too
    try:
        with _server(options, name, folder) as server:
            command = [sys.executable, "-m", "scripts.bench_connect", *arguments, "--child", name]
            command += ["--folder", str(folder), *(["--url", server[0]] if server else [])]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
                of_client = PeakAlone(child.pid)
                of_driver: PeakMemory = PeakMemory(server[1]) if server else PeakBesides(child.pid)
                output, errors = child.communicate()
                memory = {"client": of_client.stop() / 2**30, "driver": of_driver.stop() / 2**30}
        if child.returncode:
            raise RuntimeError(f"{name} failed:\n{errors[-3000:]}")
        return {**json.loads(output.splitlines()[-1]), **memory, "objective": objective(options, folder)}
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ratings", type=Path, help="Parquet file with integer ids, from scripts/make_ratings.py")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--regularization", type=float, default=0.05)
    parser.add_argument("--blocks", type=int, default=2, help="user and item blocks")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory", default="8g", help="memory of the JVM")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(fit(options)))
        return
    print(f"rank {options.rank}, {options.iterations} iterations, λ {options.regularization}")
    print(f"{'':10}{'fit s':>8}{'ratio':>7}{'driver GiB':>12}{'client GiB':>12}  objective")
    fits: list[float] = []
    for name in options.contenders:
        run = measure(name, options, sys.argv[1:])
        fits.append(run["fit"])
        print(
            f"{name:10}{run['fit']:8.1f}{run['fit'] / fits[0]:7.2f}{run['driver']:12.2f}{run['client']:12.2f}"
            f"  {run['objective']:.6g}  {run.get('phases', '')} {run.get('iterations', '')}",
            flush=True,
        )
    print(machine())


if __name__ == "__main__":
    main()
