"""Block: indexed ratings to in-blocks, one CSR block for each range of users and of items.

Ratings cross the shuffle as a few large buffers ("pieces"): each input partition sorts its ratings by
destination block, twice over, and sends one piece to each block. A piece is three arrays, never a record
a rating.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import RDD, StorageLevel
from pyspark.sql import DataFrame, Row

from mfspark.kernels.csr import InBlock, build_in_block, group_by_block
from mfspark.solvers.blocks import BlockedRatings, RatingBlock

# Ratings that one task gathers before it sorts and sends them: 4 Mi × 12 bytes = 50 MB.
_RATINGS_IN_MEMORY = 1 << 22

_PIECE_SCHEMA = "partition int, is_validation boolean, dst binary, src binary, ratings binary"


class Bounds(NamedTuple):
    """First rows of all blocks of both sides."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]

    @property
    def n_user_blocks(self) -> int:
        """Number of user blocks; item block p is partition n_user_blocks + p."""
        return len(self.user) - 1

    @property
    def n_blocks(self) -> int:
        """Number of blocks of both sides together."""
        return self.n_user_blocks + len(self.item) - 1

    def rows_of(self, partition: int) -> tuple[int, int]:
        """First row and number of rows of the block that this partition holds."""
        side, block = (
            (self.user, partition) if partition < self.n_user_blocks else (self.item, partition - self.n_user_blocks)
        )
        return int(side[block]), int(side[block + 1] - side[block])


def block_ratings(
    ratings: DataFrame, user_bounds: NDArray[np.int64], item_bounds: NDArray[np.int64], storage: StorageLevel
) -> BlockedRatings:
    """Group the ratings by user block and by item block.

    Parameters
    ----------
    ratings : user int, item int, rating float, is_validation boolean
    user_bounds, item_bounds : int64[n_blocks + 1], see `stages.index.balanced_bounds`
    storage : where the blocks are kept; the caller unpersists them

    Lazy: the blocks are built when they are first used, by one shuffle.
    """
    bounds = Bounds(user_bounds, item_bounds)
    pieces = ratings.select("user", "item", "rating", "is_validation").mapInArrow(
        partial(_cut_into_pieces, bounds), _PIECE_SCHEMA
    )
    shuffled = pieces.rdd.keyBy(_partition_of).partitionBy(bounds.n_blocks, int).values()
    blocks: RDD[RatingBlock] = shuffled.mapPartitionsWithIndex(partial(_build_block, bounds))
    return BlockedRatings(blocks.persist(storage), user_bounds, item_bounds)


def _partition_of(piece: Row) -> int:
    return int(piece["partition"])


def _cut_into_pieces(bounds: Bounds, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Executor: one input partition in, its pieces out."""
    for table in _gather(batches):
        is_validation = table["is_validation"].to_numpy()
        for flag in np.unique(is_validation):
            chosen = is_validation == flag
            user, item, rating = (table[name].to_numpy()[chosen] for name in ("user", "item", "rating"))
            yield from _pieces(bounds.user, 0, user, item, rating, is_validation=bool(flag))
            if not flag:
                yield from _pieces(bounds.item, bounds.n_user_blocks, item, user, rating, is_validation=False)


def _gather(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Join Spark's small batches until they are worth sorting."""
    gathered: list[pa.RecordBatch] = []
    n_gathered = 0
    for batch in batches:
        gathered.append(batch)
        n_gathered += batch.num_rows
        if n_gathered >= _RATINGS_IN_MEMORY:
            yield pa.Table.from_batches(gathered)
            gathered, n_gathered = [], 0
    if n_gathered:
        yield pa.Table.from_batches(gathered)


def _pieces(
    bounds: NDArray[np.int64],
    first_partition: int,
    dst: NDArray[np.int32],
    src: NDArray[np.int32],
    ratings: NDArray[np.float32],
    *,
    is_validation: bool,
) -> Iterator[pa.RecordBatch]:
    offsets, *columns = group_by_block(bounds, dst, src, ratings)
    for block in np.flatnonzero(np.diff(offsets)):
        piece = slice(offsets[block], offsets[block + 1])
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([first_partition + block], pa.int32()),
                pa.array([is_validation]),
                *[pa.array([values[piece].tobytes()], pa.binary()) for values in columns],
            ],
            names=["partition", "is_validation", "dst", "src", "ratings"],
        )


def _build_block(bounds: Bounds, partition: int, pieces: Iterable[Row]) -> Iterator[RatingBlock]:
    """Executor: the pieces of one block in, its CSR out."""
    first_row, n_rows = bounds.rows_of(partition)
    arrived = list(pieces)
    if n_rows:
        parts = [[piece for piece in arrived if piece["is_validation"] == flag] for flag in (False, True)]
        yield RatingBlock(*[_join_pieces(first_row, n_rows, part) for part in parts])


def _join_pieces(first_row: int, n_rows: int, pieces: list[Row]) -> InBlock:
    dst, src = (np.frombuffer(b"".join(piece[name] for piece in pieces), np.int32) for name in ("dst", "src"))
    ratings = np.frombuffer(b"".join(piece["ratings"] for piece in pieces), np.float32)
    return build_in_block(first_row, n_rows, dst, src, ratings)
