"""Exchange: how the source factors reach the blocks, and how the solved rows come back."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast, SparkContext

from mfspark.solvers.blocks import BlockedRatings, RatingBlock, Side

Factors = NDArray[np.float32]


class Source(NamedTuple):
    """What a half-iteration needs to know of the side that is held fixed."""

    factors: Factors
    """float32[n_src, padded_rank(n_columns)] on the executors; a `SentPadded` on the way there."""
    biases: NDArray[np.float32] | None
    """float32[n_src], where there are biases."""
    gram: NDArray[np.float32] | None
    """float32[padded_rank(n_columns)²], Σ y yᵀ over all sources, where it is needed."""

    def arrived(self) -> "Source":
        """As it is on an executor."""
        return self._replace(factors=self.factors.padded())  # type: ignore[attr-defined]  # a SentPadded


class BlockUpdate(NamedTuple):
    """What one block sends to the driver after it was solved."""

    rows: slice
    """Place of the solved rows in the factor matrix of their side."""
    factors: Factors
    """float32[n_rows, rank]."""
    singular_row: int
    """Dense index of a row whose normal equation has no unique solution; -1 where there is none."""
    scales: NDArray[np.float64]
    """float64[n_rows], n: how often λ counts for each row."""
    penalty: float
    """λ Σ n |x|² over the block's rows."""
    bias_penalty: float
    """The same of their biases."""
    squared_error: float
    """Σ w (r − prediction)² over the block's training ratings; with implicit feedback over all pairs of its rows."""
    weight: float
    """Σ w over the block's training ratings."""
    validation_squared_error: float
    validation_weight: float
    gram: NDArray[np.float64] | None
    """float64[n_columns, n_columns], Σ x xᵀ over the block's rows, where it is needed."""


UpdateBlock = Callable[[RatingBlock, Source, Factors | None], BlockUpdate]
"""(block, source, old factors) → update; a function of plain arrays that pickles."""


def update_side(
    ratings: BlockedRatings, side: Side, source: Source, update: UpdateBlock, old_factors: Factors | None
) -> list[BlockUpdate]:
    """Solve every block of one side, the other side's factors broadcast to the executors.

    Parameters
    ----------
    source : the other side
    update : solves one block
    old_factors : float32[n_dst, n_columns]    what the solved rows replace, where `update` starts from it

    Cost: n_src·rank·4 bytes, and with old_factors n_dst·rank·4 more, to every Python worker; n_dst·rank·4 bytes back
    to the driver. Runs one Spark job with one task a block; the broadcast is destroyed when the job ends, however it
    ends.
    """
    context = ratings.rdd.context
    broadcast = context.broadcast((source, old_factors))
    try:
        return context.runJob(ratings.rdd, partial(_update_partition, broadcast, update), ratings.partitions(side))
    finally:
        broadcast.destroy()


@contextmanager
def named_jobs(context: SparkContext, description: str) -> Iterator[None]:
    """Name the jobs of this thread in Spark's UI and event log; afterwards the caller's own name is back."""
    before = context.getLocalProperty("spark.job.description")
    context.setJobDescription(description)
    try:
        yield
    finally:
        context.setJobDescription(before)  # type: ignore[arg-type]  # None, where there was none, clears it


def _update_partition(
    sent: "Broadcast[tuple[Source, Factors | None]]", update: UpdateBlock, blocks: Iterable[RatingBlock]
) -> Iterator[BlockUpdate]:
    """Executor: one task."""
    # Spark's Python worker runs a full garbage collection after each task. What is alive now (imported
    # modules, compiled kernels) stays alive: out of the collector's sight it no longer costs 20 to 50 ms.
    gc.freeze()
    for block in blocks:
        yield update(block, *sent.value)
