"""The blocked ratings: what training iterates over."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD, Broadcast, SparkContext, StorageLevel

from mfspark.kernels.balance import Ranges
from mfspark.kernels.csr import PackedBlock

Side = Literal["user", "item"]
"""Which factors a block solves: the destination."""


class RatingBlock(NamedTuple):
    """All ratings of some consecutive destination rows; or, as a part, some of the ratings of one row."""

    train: PackedBlock
    validation: PackedBlock
    """Same rows; judged after each iteration, never trained on. Empty in item blocks: one side suffices."""
    is_part: bool = False
    sources: NDArray[np.int32] | None = None
    """Where the other side is wide, on the first record of a partition: the dense indices of the rows that its records
    need, ascending; their entries count among these."""


class OutBlock(NamedTuple):
    """The rows of one source block that one destination block needs."""

    target: int
    """Partition of the destination block."""
    rows: NDArray[np.int32]
    """Dense indices, ascending."""


@dataclass(frozen=True)
class SideBlocks:
    """The ratings by the rows of one side."""

    rdd: "RDD[RatingBlock]"
    """Partition first + p holds block p, in as many records as keep each of them small; one without rows is empty."""
    first: int
    ranges: Ranges
    """Block p solves the users, or items, of its range."""
    is_wide: bool = False
    """Whether the factors of this side are too large to meet in one place."""
    out_blocks: "RDD[tuple[int, OutBlock]] | None" = None
    """Where the other side is wide: in partition p, which rows of its block p these blocks need, each with p."""

    @property
    def partitions(self) -> list[int]:
        """Partitions that are not empty."""
        return [self.first + int(block) for block in self.ranges.used]


@dataclass(frozen=True)
class BlockedRatings:
    """Every rating twice, once by its user and once by its item."""

    users: SideBlocks
    items: SideBlocks
    n_ratings: int
    """Number of training ratings."""
    mean_rating: float
    """Mean of the training ratings, by weight."""
    storage: StorageLevel
    """How blocks, and factors of a wide side, are kept."""
    layout: "Broadcast[Any]"
    """What the executors need to build a block again that was lost."""
    _kept: "list[tuple[RDD[Any], Broadcast[Any]]]" = field(default_factory=list)

    @property
    def context(self) -> SparkContext:
        """Where the blocks are."""
        return self.users.rdd.context

    def of(self, side: Side) -> SideBlocks:
        """The blocks that solve this side."""
        return self.users if side == "user" else self.items

    @cached_property
    def cells(self) -> "RDD[tuple[int, PackedBlock]]":
        """The training ratings once more, by user block and item block, kept as the blocks are.

        Partition p·n_item_blocks + q holds those of user block p and item block q, each record with its number.
        """
        n_user_blocks, n_item_blocks = self.users.ranges.n_blocks, self.items.ranges.n_blocks
        cut = partial(_cut_into_cells, n_user_blocks, self.items.ranges)
        cells = partition_by(self.users.rdd.mapPartitionsWithIndex(cut), n_user_blocks * n_item_blocks)
        return cells.persist(self.storage)

    def keep(self, factors: "RDD[Any]", sent: "Broadcast[Any]") -> None:
        """Hold factors of a wide side, with what they would be computed from again, until they are dropped."""
        self._kept.append((factors, sent))

    def drop_all_but(self, wanted: "list[RDD[Any]]") -> None:
        """Drop the factors that were kept, but for these."""
        for factors, sent in self._kept:
            if factors not in wanted:
                factors.unpersist()
                sent.unpersist()
        self._kept[:] = [(factors, sent) for factors, sent in self._kept if factors in wanted]

    def release(self) -> None:
        """Drop the cached blocks and what they were made with."""
        self.drop_all_but([])
        self.users.rdd.unpersist()
        if self.items.rdd is not self.users.rdd:
            self.items.rdd.unpersist()
        for blocks in (self.users, self.items):
            if blocks.out_blocks is not None:
                blocks.out_blocks.unpersist()
        if "cells" in self.__dict__:
            self.cells.unpersist()
        if self.users.is_wide or self.items.is_wide:
            # The table of a wide side would be computed again from the ratings; Spark's cleaner does the rest.
            self.layout.unpersist()
        else:
            self.layout.destroy()


def partition_by(pairs: "RDD[tuple[int, Any]]", n_partitions: int) -> "RDD[tuple[int, Any]]":
    """Send each (partition, value) to its partition.

    Other than what RDD.partitionBy returns, the result can be united with RDDs of blocks partition by partition and
    without a second pass through Python: Spark does that where partitioners and serializers are the same. These only
    have different names for one format.
    """
    arrived = pairs.partitionBy(n_partitions, int)
    arrived._jrdd_deserializer = arrived.ctx.serializer
    return arrived


def _cut_into_cells(
    n_user_blocks: int, items: Ranges, partition: int, blocks: Iterable[RatingBlock]
) -> Iterator[tuple[int, PackedBlock]]:
    """Executor: user blocks in, their ratings by item block out, each with the number of its cell."""
    if partition >= n_user_blocks:
        return
    for block in blocks:
        train = block.train
        rows = np.repeat(np.arange(train.row_sizes.size), train.row_sizes)
        item_blocks = items.blocks_of(train.src)
        for item_block in np.unique(item_blocks).tolist():
            chosen = item_blocks == item_block
            sizes = np.bincount(rows[chosen], minlength=train.row_sizes.size).astype(np.uint32)
            cell = train._replace(row_sizes=sizes, src=train.src[chosen], ratings=train.ratings[chosen])
            yield partition * items.n_blocks + item_block, cell
