"""Measure the speed of the kernels on one core against the limit of the machine.

Rows have the lengths of users and of items in MovieLens 20M (log-normal, long-tailed); sources are drawn by popularity.
The limit is the rate of a large single-precision matrix product.

    python -m scripts.bench_kernels --ranks 10 32 64 128 --repeats 5
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported

import numpy as np

from mfspark.kernels.als import solve_exactly
from mfspark.kernels.cg import solve_by_cg
from mfspark.kernels.csr import InBlock, build_in_block, group_by_block
from mfspark.kernels.nonnegative import solve_nonnegative
from mfspark.kernels.padding import pad_factors
from mfspark.kernels.sgd import descend
from mfspark.kernels.subspace import solve_by_subspaces
from mfspark.kernels.topn import top_n
from mfspark.training.exchange import Source
from mfspark.training.objective import Explicit, Implicit, Regularization, equations
from scripts.bench_pipeline import machine

N_USERS, N_ITEMS = 138_493, 26_744
USER_SKEW, ITEM_SKEW = 1.38, 2.8


def half(side: str, n_ratings: int) -> tuple[InBlock, int]:
    """An in-block with the row lengths of one side, and the number of source rows of the other."""
    random = np.random.default_rng(0)
    n_dst, n_src = (N_USERS, N_ITEMS) if side == "user" else (N_ITEMS, N_USERS)
    dst_skew, src_skew = (USER_SKEW, ITEM_SKEW) if side == "user" else (ITEM_SKEW, USER_SKEW)
    n_rows = max(1, n_dst * n_ratings // 20_000_263)
    weights = np.exp(random.normal(0, dst_skew, n_rows))
    dst = random.choice(n_rows, n_ratings, p=weights / weights.sum()).astype(np.int32)
    popularity = np.exp(random.normal(0, src_skew, n_src))
    src = random.choice(n_src, n_ratings, p=popularity / popularity.sum()).astype(np.int32)
    ratings = (random.integers(1, 11, n_ratings) / 2).astype(np.float32)
    return build_in_block(0, n_rows, dst, src, ratings), n_src


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median processor time of `repeats` runs after one that compiles and warms up."""
    return alternating_seconds([run], repeats)[0]


def alternating_seconds(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median processor times of `repeats` rounds, after one that compiles and warms up."""
    seconds: list[list[float]] = []
    for _ in range(repeats + 1):
        seconds.append([])
        for run in runs:
            started = time.process_time()
            run()
            seconds[-1].append(time.process_time() - started)
    return [statistics.median(of_run) for of_run in zip(*seconds[1:], strict=True)]


def sgemm_peak() -> float:
    """Flops per second of a 1,024³ product."""
    A = np.ones((1024, 1024), np.float32)
    return 2 * 1024**3 / median_seconds(lambda: A @ A, 20)


def bench_solve(rank: int, n_ratings: int, repeats: int, peak: float) -> list[dict]:
    """One half-iteration of each side with each solver; the exact solver also with implicit feedback."""
    rows = []
    for side in ("user", "item"):
        block, n_src = half(side, n_ratings)
        Y = pad_factors(np.random.default_rng(1).normal(0, 1.5 / rank**0.5, (n_src, rank)).astype(np.float32))
        X = np.random.default_rng(2).normal(0, 1.5 / rank**0.5, (block.n_rows, rank)).astype(np.float32)
        explicit, implicit = (
            equations(objective, Regularization(0.05, 0.05), side, rank, block, Source(Y, None, gram, len(Y)))
            for objective, gram in ((Explicit(), None), (Implicit(alpha=1.0), (Y.T @ Y).ravel()))
        )
        flops = n_ratings * rank * (rank + 1) + block.n_rows * rank**3 / 3
        cases: list[tuple[str, Callable[[], object], float | None]] = [
            (f"solve, rank {rank}, {side} half", partial(solve_exactly, block, Y, rank, explicit), flops),
            ("  implicit feedback", partial(solve_exactly, block, Y, rank, implicit), flops),
            ("  nonnegative", partial(solve_nonnegative, block, Y, X, explicit), None),
            ("  subspaces", partial(solve_by_subspaces, block, Y, X, explicit), None),
        ]
        for steps in (1, 2, 3):
            run = partial(solve_by_cg, block, Y, X, explicit, steps=steps)
            cases.append((f"  {steps} steps of CG", run, 4 * (steps + 1) * n_ratings * rank))
        for what, run, flops in cases:
            seconds = median_seconds(run, repeats)
            rows.append(_row(what, seconds, n_ratings, flops and flops / seconds / peak))
    return rows


def bench_descent(rank: int, n_ratings: int, repeats: int) -> list[dict]:
    """An epoch of SGD over a cell of 10,000 users by 10,000 items."""
    random = np.random.default_rng(0)
    X, Y = (random.normal(0, 1 / rank**0.5, (10_000, rank)).astype(np.float32) for _ in range(2))
    users, items = (random.integers(0, 10_000, n_ratings).astype(np.int32) for _ in range(2))
    ratings = random.normal(0, 1, n_ratings).astype(np.float32)
    lambdas = {"user_regularization": 0.05, "item_regularization": 0.05, "bias_regularization": None}
    seconds = median_seconds(lambda: descend(X, Y, users, items, ratings, None, learning_rate=0.01, **lambdas), repeats)
    return [_row(f"SGD, rank {rank}", seconds, n_ratings, None)]


def bench_blocks(n_ratings: int, repeats: int) -> list[dict]:
    """Cut ratings into pieces and build a block."""
    random = np.random.default_rng(0)
    users = np.sort(random.integers(0, N_USERS, n_ratings)).astype(np.int32)
    items = random.integers(0, N_ITEMS, n_ratings).astype(np.int32)
    ratings = np.ones(n_ratings, np.float32)
    blocks = items * np.int32(10) // np.int32(N_ITEMS)
    cut = median_seconds(lambda: group_by_block(blocks, 10, items, users, ratings), repeats)
    build = median_seconds(lambda: build_in_block(0, N_ITEMS, items, users, ratings), repeats)
    return [_row("cut into 10 pieces", cut, n_ratings, None), _row("build a block", build, n_ratings, None)]


def bench_topn(rank: int, repeats: int, peak: float) -> list[dict]:
    """Top 10 of some users, with 144 seen items each."""
    random = np.random.default_rng(0)
    n_users = 4096
    X, Y = (random.standard_normal((n, rank)).astype(np.float32) for n in (n_users, N_ITEMS))
    offsets = np.arange(n_users + 1, dtype=np.int64) * 144
    seen = np.sort(random.integers(0, N_ITEMS, (n_users, 144)).astype(np.int32), axis=1).ravel()
    seconds = median_seconds(lambda: top_n(X, Y, 10, offsets, seen), repeats)
    flops = 2 * n_users * N_ITEMS * rank
    return [_row(f"top 10, rank {rank}", seconds, n_users * N_ITEMS, flops / seconds / peak)]


def bench_long_lists(repeats: int) -> list[dict]:
    """Lists of 10 to 5,000 of 27,000 items for 500 users at rank 32; the same by numpy: product, partition, sort."""
    random = np.random.default_rng(0)
    X, Y = (random.standard_normal((n, 32)).astype(np.float32) for n in (500, 27_000))
    offsets, seen = np.zeros(501, np.int64), np.empty(0, np.int32)
    rows = []
    for n in (10, 100, 1000, 5000):
        for what, run in (
            ("top", partial(top_n, X, Y, n, offsets, seen)),
            ("  numpy, top", partial(_partition, X, Y, n)),
        ):
            rows.append(_row(f"{what} {n}, rank 32", median_seconds(run, repeats), 500 * 27_000, None))
    return rows


def _partition(X: np.ndarray, Y: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The best n items of each user and their scores; equal scores in any order."""
    scores = X @ Y.T
    np.negative(scores, out=scores)
    items = np.argpartition(scores, n, axis=1)[:, :n]
    best = np.take_along_axis(scores, items, axis=1)
    order = np.argsort(best, axis=1)
    return np.take_along_axis(items, order, axis=1), -np.take_along_axis(best, order, axis=1)


def _row(what: str, seconds: float, n_entries: int, share: float | None) -> dict:
    return {"what": what, "seconds": seconds, "ns_per_entry": seconds / n_entries * 1e9, "share_of_sgemm": share}


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[10, 32, 64, 128], help="none: top-N alone")
    parser.add_argument("--ratings", type=int, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    options = parser.parse_args()
    peak = sgemm_peak()
    print(f"sgemm peak of one core: {peak / 1e9:.0f} GFLOP/s; {options.ratings} ratings, median of {options.repeats}")
    rows = bench_blocks(options.ratings, options.repeats) if options.ranks else []
    for rank in options.ranks:
        rows += bench_solve(rank, options.ratings, options.repeats, peak)
        rows += bench_descent(rank, options.ratings, options.repeats)
    rows += bench_topn(64, options.repeats, peak)
    rows += bench_long_lists(options.repeats)
    for row in rows:
        share = "" if row["share_of_sgemm"] is None else f"{row['share_of_sgemm']:8.0%} of sgemm"
        print(f"{row['what']:28}{row['seconds']:8.3f} s{row['ns_per_entry']:8.2f} ns an entry{share}")
    print(machine())
    if options.json:
        options.json.write_text(json.dumps({"sgemm_flops": peak, "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
