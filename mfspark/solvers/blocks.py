"""The blocked ratings: what training iterates over."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD, Broadcast

from mfspark.kernels.csr import PackedBlock

Side = Literal["user", "item"]
"""Which factors a block solves: the destination."""


class RatingBlock(NamedTuple):
    """All ratings of some consecutive destination rows."""

    train: PackedBlock
    validation: PackedBlock
    """Same rows; judged after each iteration, never trained on. Empty in item blocks: one side suffices."""


@dataclass(frozen=True)
class BlockedRatings:
    """Every rating twice, once by its user and once by its item.

    User blocks come first: partition p holds the rows of user block p, partition len(user blocks) + p those of item
    block p, in as many records as keep each of them small. A partition whose block has no rows is empty.
    """

    rdd: "RDD[RatingBlock]"
    user_bounds: NDArray[np.int64]
    """int64[n_user_blocks + 1]: block p solves the users user_bounds[p] .. user_bounds[p + 1] - 1."""
    item_bounds: NDArray[np.int64]
    n_ratings: int
    """Number of training ratings."""
    layout: "Broadcast[Any]"
    """What the executors need to build a block again that was lost."""

    def n_rows(self, side: Side) -> int:
        """Number of users, or of items."""
        return int(self._bounds(side)[-1])

    def partitions(self, side: Side) -> list[int]:
        """Partitions with blocks that solve this side."""
        first = 0 if side == "user" else len(self.user_bounds) - 1
        sizes = np.diff(self._bounds(side))
        return [first + int(block) for block in np.flatnonzero(sizes)]

    def mean_rating(self) -> float:
        """Mean of the training ratings, by weight. Runs one Spark job."""
        context = self.rdd.context
        sums = context.runJob(self.rdd, partial(map, _sum_ratings), self.partitions("user"))
        totals, weights = zip(*sums, strict=True)
        return math.fsum(totals) / math.fsum(weights)

    def release(self) -> None:
        """Drop the cached blocks and what they were made with."""
        self.rdd.unpersist()
        self.layout.destroy()

    def _bounds(self, side: Side) -> NDArray[np.int64]:
        return self.user_bounds if side == "user" else self.item_bounds


def _sum_ratings(block: RatingBlock) -> tuple[float, float]:
    """Executor: Σ w r and Σ w of a block's training ratings."""
    train = block.train.unpack()
    weights = np.ones(train.src.size) if train.weights is None else train.weights.astype(np.float64)
    return float(weights @ train.ratings), float(weights.sum())
