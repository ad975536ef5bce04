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
from pyspark.serializers import NoOpSerializer
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.kernels.csr import InBlock, build_in_block, group_by_block
from mfspark.solvers.blocks import BlockedRatings, RatingBlock
from mfspark.stages.arrow import large_arrow_batches

# Ratings that one task gathers before it sorts and sends them: 4 Mi × 12 bytes = 50 MB.
_RATINGS_IN_MEMORY = 1 << 22

_BATCH_SCHEMA = pa.schema({"user": pa.int32(), "item": pa.int32(), "rating": pa.float32()})


class Piece(NamedTuple):
    """Ratings of one input partition that belong to one block."""

    is_validation: bool
    dst: NDArray[np.int32]
    src: NDArray[np.int32]
    ratings: NDArray[np.float32]


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
    pieces = _arrow_batches(ratings).mapPartitions(partial(_cut_into_pieces, bounds))
    shuffled = pieces.partitionBy(bounds.n_blocks, int)
    blocks: RDD[RatingBlock] = shuffled.mapPartitionsWithIndex(partial(_build_block, bounds))
    return BlockedRatings(blocks.persist(storage), user_bounds, item_bounds)


def _arrow_batches(ratings: DataFrame) -> RDD[bytes]:
    """The ratings as Arrow record batches in `_BATCH_SCHEMA`, without a schema message.

    Spark's public ways from a DataFrame to Python functions on arrays end in a DataFrame again, whose binary columns
    an RDD could only get through a pickling of rows in the JVM: 20 million ratings then took 10 s longer.
    """
    # A column is paid for rating by rating: the flag travels in the sign of the item.
    marked_item = F.when(F.col("is_validation"), -1 - F.col("item")).otherwise(F.col("item")).alias("item")
    table = ratings.select("user", marked_item, "rating")
    with large_arrow_batches(table.sparkSession):
        batches = table._jdf.toArrowBatchRdd().toJavaRDD()
    return RDD(batches, table.sparkSession.sparkContext, NoOpSerializer())


def _cut_into_pieces(bounds: Bounds, messages: Iterable[bytes]) -> Iterator[tuple[int, Piece]]:
    """Executor: one input partition in, its pieces out, each with the partition it goes to."""
    batches = (pa.ipc.read_record_batch(pa.py_buffer(message), _BATCH_SCHEMA) for message in messages)
    for table in _gather(batches):
        users, items, ratings = (table[name].to_numpy() for name in _BATCH_SCHEMA.names)
        is_validation = items < 0
        if is_validation.any():
            chosen = users[is_validation], -1 - items[is_validation], ratings[is_validation]
            yield from _pieces(bounds.user, 0, *chosen, is_validation=True)
            users, items, ratings = users[~is_validation], items[~is_validation], ratings[~is_validation]
        yield from _pieces(bounds.user, 0, users, items, ratings, is_validation=False)
        yield from _pieces(bounds.item, bounds.n_user_blocks, items, users, ratings, is_validation=False)


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
) -> Iterator[tuple[int, Piece]]:
    offsets, dst, src, ratings = group_by_block(bounds, dst, src, ratings)
    for block in np.flatnonzero(np.diff(offsets)):
        entries = slice(offsets[block], offsets[block + 1])
        yield first_partition + int(block), Piece(is_validation, dst[entries], src[entries], ratings[entries])


def _build_block(bounds: Bounds, partition: int, arrived: Iterable[tuple[int, Piece]]) -> Iterator[RatingBlock]:
    """Executor: the pieces of one block in, its CSR out."""
    first_row, n_rows = bounds.rows_of(partition)
    pieces = [piece for _, piece in arrived]
    if n_rows:
        train = [piece for piece in pieces if not piece.is_validation]
        validation = [piece for piece in pieces if piece.is_validation]
        yield RatingBlock(_join_pieces(first_row, n_rows, train), _join_pieces(first_row, n_rows, validation))


def _join_pieces(first_row: int, n_rows: int, pieces: list[Piece]) -> InBlock:
    if not pieces:
        pieces = [Piece(False, np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))]
    dst, src, ratings = (
        np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("dst", "src", "ratings")
    )
    return build_in_block(first_row, n_rows, dst, src, ratings)
