"""The blocked ratings: what training iterates over."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
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
    mean_rating: float
    """Mean of the training ratings, by weight."""
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

    @cached_property
    def cells(self) -> "RDD[tuple[int, PackedBlock]]":
        """The training ratings once more, by user block and item block, kept as the blocks are.

        Partition p·n_item_blocks + q holds those of user block p and item block q, each record with its number.
        """
        n_user_blocks, n_item_blocks = len(self.user_bounds) - 1, len(self.item_bounds) - 1
        cut = partial(_cut_into_cells, n_user_blocks, self.item_bounds)
        cells = self.rdd.mapPartitionsWithIndex(cut).partitionBy(n_user_blocks * n_item_blocks, int)
        return cells.persist(self.rdd.getStorageLevel())

    def release(self) -> None:
        """Drop the cached blocks and what they were made with."""
        self.rdd.unpersist()
        if "cells" in self.__dict__:
            self.cells.unpersist()
        self.layout.destroy()

    def _bounds(self, side: Side) -> NDArray[np.int64]:
        return self.user_bounds if side == "user" else self.item_bounds


def _cut_into_cells(
    n_user_blocks: int, item_bounds: NDArray[np.int64], partition: int, blocks: Iterable[RatingBlock]
) -> Iterator[tuple[int, PackedBlock]]:
    """Executor: user blocks in, their ratings by item block out, each with the number of its cell."""
    if partition >= n_user_blocks:
        return
    n_item_blocks = len(item_bounds) - 1
    for block in blocks:
        train = block.train
        rows = np.repeat(np.arange(train.row_sizes.size), train.row_sizes)
        item_blocks = np.searchsorted(item_bounds, train.src, side="right") - 1
        for item_block in np.unique(item_blocks).tolist():
            chosen = item_blocks == item_block
            sizes = np.bincount(rows[chosen], minlength=train.row_sizes.size).astype(np.uint32)
            cell = train._replace(row_sizes=sizes, src=train.src[chosen], ratings=train.ratings[chosen])
            yield partition * n_item_blocks + item_block, cell
