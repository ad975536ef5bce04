"""Compare whole fits and top-N tables with those of other libraries, in turn in one run.

Each fit runs in a fresh process with an empty cache of compiled kernels, so imports and compilation count. Its clock
starts when the Spark session is ready and stops when the factors are written as Parquet. Peak memory is the sum over
all processes (proportional set size, sampled). Native libraries read the same Parquet file; their setup is reading it
and building the sparse matrix. "to goal" is the time to reach the final objective of Spark's ALS: the fit without later
iterations.

    python scripts/bench_pipeline.py build/ml20m.parquet --rank 64 --repeats 3
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

_SAMPLE_SECONDS = 1.0  # the kernel takes 50 ms to sum up a large process
_RESULT = "RESULT "


def fit_mfspark(options: argparse.Namespace, **params: object) -> dict:
    """Our ALS, then the top 10 of all users without rated items."""
    from mfspark import ALS

    def fit(ratings):  # type: ignore[no-untyped-def]
        return ALS(**als_settings(options), **params).fit(ratings)

    return _fit_on_spark(options, fit, lambda model, ratings: model.recommendForAllUsers(10, ratings))


def fit_spark(options: argparse.Namespace) -> dict:
    """Spark's own ALS, then the top 10 of all users; it has no filter."""
    from pyspark.ml.recommendation import ALS

    def fit(ratings):  # type: ignore[no-untyped-def]
        return ALS(**als_settings(options)).fit(ratings)

    return _fit_on_spark(options, fit, lambda model, _: model.recommendForAllUsers(10))


def fit_implicit(options: argparse.Namespace) -> dict:
    """The native library implicit, conjugate gradients, implicit feedback on the same matrix."""
    from implicit.cpu.als import AlternatingLeastSquares

    started = time.monotonic()
    matrix = _sparse_matrix(options.ratings)
    setup = time.monotonic() - started
    model = AlternatingLeastSquares(
        options.rank,
        regularization=options.regularization,
        use_cg=True,
        iterations=options.iterations,
        num_threads=options.cores,
    )
    seconds: list[float] = []
    model.fit(matrix, show_progress=False, callback=lambda _, elapsed, __: seconds.append(elapsed))
    started_topn = time.monotonic()
    model.recommend(np.arange(matrix.shape[0]), matrix, N=10, filter_already_liked_items=True)
    return _native_result(setup, started, seconds, time.monotonic() - started_topn)


def fit_cmfrec(options: argparse.Namespace) -> dict:
    """The native library cmfrec, conjugate gradients, explicit ratings without biases."""
    from cmfrec import CMF

    def fit(iterations: int) -> float:
        model = CMF(
            k=options.rank, lambda_=options.regularization, scale_lam=True, user_bias=False, item_bias=False,
            niter=iterations, use_cg=True, finalize_chol=False, nthreads=options.cores, verbose=False,
        )  # fmt: skip
        began = time.monotonic()
        model.fit(matrix)
        return time.monotonic() - began

    started = time.monotonic()
    matrix = _sparse_matrix(options.ratings).tocoo()
    setup = time.monotonic() - started
    one, all_of_them = fit(1), fit(options.iterations)
    per_iteration = (all_of_them - one) / (options.iterations - 1)
    return _native_result(setup, started, [per_iteration] * options.iterations, None)


CONTENDERS: dict[str, Callable[[argparse.Namespace], dict]] = {
    "mfspark": fit_mfspark,
    "mfspark-cg": partial(fit_mfspark, solver="cg"),
    "spark": fit_spark,
    "implicit": fit_implicit,
    "cmfrec": fit_cmfrec,
}


def als_settings(options: argparse.Namespace) -> dict:
    """Parameters that our ALS and Spark's have in common."""
    return {
        "rank": options.rank,
        "maxIter": options.iterations,
        "regParam": options.regularization,
        "userCol": "user_id",
        "itemCol": "item_id",
        "seed": 1,
        "numUserBlocks": options.blocks,
        "numItemBlocks": options.blocks,
    }


def session_builder(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """What the classic session of a fit is made with."""
    from pyspark.sql import SparkSession

    return (
        SparkSession.builder.master(f"local[{options.cores}]")
        .config("spark.driver.memory", options.memory)
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.python.unix.domain.socket.enabled", "true")
    )


def _fit_on_spark(options: argparse.Namespace, fit: Callable, recommend: Callable) -> dict:
    spark = session_builder(options).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    started = time.monotonic()
    ratings = spark.read.parquet(str(options.ratings))
    model = fit(ratings)
    model.userFactors.write.parquet(str(options.folder / "users"))
    model.itemFactors.write.parquet(str(options.folder / "items"))
    fitted = time.monotonic()
    recommend(model, ratings).write.parquet(str(options.folder / "recommendations"))
    recommended = time.monotonic()
    result = {"fit": fitted - started, "top_n": recommended - fitted}
    if hasattr(model, "summary"):
        result["iterations"] = [record.seconds for record in model.summary.history]
        result["objectives"] = model.summary.objective_history
        result["phases"] = model.summary.seconds
    spark.stop()
    return result


def objective(options: argparse.Namespace, folder: Path) -> float:
    """Σ (r − x·y)² + λ (|x|² + |y|²) of the factors just written, in numpy, a slice of the ratings at a time."""
    X, Y = (_factor_matrix(folder / side) for side in ("users", "items"))
    total = 0.0
    for batch in pq.ParquetFile(options.ratings).iter_batches(1 << 20):
        x, y = X[batch["user_id"].to_numpy()], Y[batch["item_id"].to_numpy()]
        errors = batch["rating"].to_numpy().astype(np.float64) - np.einsum("pf,pf->p", x, y)
        penalty = np.square(x, dtype=np.float64).sum() + np.square(y, dtype=np.float64).sum()
        total += float(errors @ errors) + options.regularization * float(penalty)
    return total


def _factor_matrix(path: Path) -> np.ndarray:
    table = pq.read_table(path)
    ids = table["id"].to_numpy()
    features = table["features"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
    matrix = np.zeros((int(ids.max()) + 1, features.shape[1]), np.float32)
    matrix[ids] = features
    return matrix


def _sparse_matrix(path: Path):  # type: ignore[no-untyped-def]
    from scipy.sparse import csr_matrix

    table = pq.read_table(path)
    users, items = table["user_id"].to_numpy(), table["item_id"].to_numpy()
    return csr_matrix((table["rating"].to_numpy(), (users, items)), dtype=np.float32)


def _native_result(setup: float, started: float, seconds: list[float], top_n: float | None) -> dict:
    return {"fit": setup + sum(seconds), "top_n": top_n, "iterations": seconds, "total": time.monotonic() - started}


def measure(name: str, options: argparse.Namespace, arguments: list[str]) -> dict:
    """Run one contender in its own process; return its result with the peak memory of all its processes."""
    folder = Path(tempfile.mkdtemp(prefix="mfspark-bench-"))
    settings = {"PYSPARK_PYTHON": sys.executable, "OPENBLAS_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, __file__, *arguments, "--child", name, "--folder", str(folder)]
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **settings}
        ) as child:
            peak = PeakMemory(child.pid)
            output, errors = child.communicate()
            peak_bytes = peak.stop()
        lines = [line for line in output.splitlines() if line.startswith(_RESULT)]
        if child.returncode or not lines:
            raise RuntimeError(f"{name} failed:\n{errors[-3000:]}")
        result = {**json.loads(lines[-1].removeprefix(_RESULT)), "peak_gib": peak_bytes / 2**30}
        if (folder / "users").exists():
            result["objective"] = objective(options, folder)
        return result
    finally:
        shutil.rmtree(folder)


class PeakMemory:
    """Samples the memory of a process and its descendants on a separate thread."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._is_running = pid, 0, True
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Highest sum seen, in bytes."""
        self._is_running = False
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while self._is_running:
            self._peak = max(self._peak, self._bytes())
            time.sleep(_SAMPLE_SECONDS)

    def _bytes(self) -> int:
        return sum(proportional_bytes(pid) for pid in process_family(self._pid))


def process_family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # ended meanwhile
            children.setdefault(parent, []).append(int(entry.name))
    family = [pid]
    for member in family:
        family.extend(children.get(member, []))
    return family


def proportional_bytes(pid: int) -> int:
    """Proportional set size of a process; 0 if it ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def report(options: argparse.Namespace, results: dict[str, list[dict]]) -> None:
    """Print medians, and ratios to the first contender."""
    print(f"\nrank {options.rank}, {options.iterations} iterations, λ {options.regularization}, {options.repeats} runs")
    columns = {"fit": "fit s", "to_goal": "to goal s", "iteration": "iteration s", "top_n": "top-10 s"}
    print(
        f"{'':12}" + "".join(f"{title:>12}{'ratio':>7}" for title in columns.values()) + f"{'peak GiB':>10}  objective"
    )
    goal = _median(results.get("spark", []), "objective")
    for run in (run for runs in results.values() for run in runs):
        run["iteration"] = _median_iteration(run)
        run["to_goal"] = _seconds_to(goal, run)
    first = next(iter(results.values()))
    for name, runs in results.items():
        print(
            f"{name:12}"
            + "".join(f"{_median(runs, key):12.2f}{_median(runs, key) / _median(first, key):7.2f}" for key in columns)
            + f"{_median(runs, 'peak_gib'):10.2f}  {_median(runs, 'objective'):.6g}"
        )
    for name, (run, *_) in results.items():
        if "phases" in run:
            print(f"phases of {name}: { {phase: round(seconds, 2) for phase, seconds in run['phases'].items()} }")


def _seconds_to(goal: float, run: dict) -> float:
    """Time of the fit until the objective reached the goal; NaN if it never did."""
    if "objectives" not in run:
        return run["fit"] if run.get("objective") == goal else float("nan")
    reached = [iteration for iteration, value in enumerate(run["objectives"], 1) if value <= goal]
    return run["fit"] - sum(run["iterations"][reached[0] :]) if reached else float("nan")


def _median(runs: list[dict], key: str) -> float:
    values = [run[key] for run in runs if run.get(key) is not None and run[key] == run[key]]
    return statistics.median(values) if values else float("nan")


def _median_iteration(run: dict) -> float:
    # Without the first iteration, which compiles the kernels.
    return statistics.median(run["iterations"][1:]) if run.get("iterations") else float("nan")


def machine() -> dict:
    """The machine and versions."""
    packages = ["mfspark", "pyspark", "numpy", "numba", "implicit", "cmfrec"]
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version(), **found}


def _processor() -> str:
    # platform.processor() is empty on most Linux systems.
    if not Path("/proc/cpuinfo").exists():
        return platform.processor()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = dict(line.partition(":")[::2] for line in lines if ":" in line)
    return " ".join(value.strip() for name, value in found.items() if name.strip() in ("model name", "cpu family"))


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Options, and the arguments to pass on to a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ratings", type=Path, help="Parquet file with integer ids, from scripts/make_ratings.py")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--regularization", type=float, default=0.05)
    parser.add_argument("--blocks", type=int, default=2, help="user and item blocks of both ALS on Spark")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory", default="8g", help="memory of the JVM")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=["mfspark", "spark"])
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(), sys.argv[1:]


def main() -> None:
    """Run as a command."""
    options, arguments = parse()
    if options.child:
        print(_RESULT + json.dumps(CONTENDERS[options.child](options)))
        return
    results: dict[str, list[dict]] = {name: [] for name in options.contenders}
    for repeat in range(options.repeats):
        for name in options.contenders:
            results[name].append(measure(name, options, arguments))
            figures = {key: value for key, value in results[name][-1].items() if isinstance(value, float)}
            shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            print(f"run {repeat + 1}, {name}: {shown}", flush=True)
    report(options, results)
    print(machine())
    if options.json:
        options.json.write_text(
            json.dumps({"options": vars(options), "machine": machine(), "results": results}, default=str)
        )


if __name__ == "__main__":
    main()
