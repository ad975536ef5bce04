"""Block: encoded ratings to in-blocks, one CSR block for each range of users and of items.

Ratings cross the shuffle as a few large buffers ("pieces"): each part of the input sorts its ratings by
destination block, twice over, and sends one piece to each block. A piece is three arrays, never a record
a rating.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import RDD, Broadcast, StorageLevel

from mfspark.errors import DataError
from mfspark.kernels.balance import cut_evenly
from mfspark.kernels.csr import PackedBlock, build_packed_block, group_by_block, index_type
from mfspark.solvers.blocks import BlockedRatings, RatingBlock
from mfspark.stages.encode import Encoded, EncodedRatings
from mfspark.stages.index import RatingsIndex

# Ratings in one buffer of the shuffle and of the cache: 1 to 2 MB. Buffers of 40 MB, one for each block, made the
# JVM's collector grow the heap by a third: it wants them in one piece.
_RATINGS_IN_PIECE = 1 << 17
_RATINGS_IN_RECORD = 1 << 18


class Piece(NamedTuple):
    """Ratings of one part of the input that belong to one block."""

    is_validation: bool
    dst: NDArray[np.uint16] | NDArray[np.int32]
    """Row within the block."""
    src: NDArray[np.uint16] | NDArray[np.int32]
    ratings: NDArray[Any]
    """Values as the encoded ratings have them; codes, where the layout has a table of them."""


class Layout(NamedTuple):
    """What every executor needs to know to send each rating to its blocks."""

    user_ids: pa.Array
    item_ids: pa.Array
    rating_values: NDArray[Any] | None
    user_bounds: NDArray[np.int64]
    item_bounds: NDArray[np.int64]

    @property
    def n_user_blocks(self) -> int:
        """Number of user blocks; item block p is partition n_user_blocks + p."""
        return len(self.user_bounds) - 1

    @property
    def n_blocks(self) -> int:
        """Number of blocks of both sides together."""
        return self.n_user_blocks + len(self.item_bounds) - 1


def block_ratings(
    ratings: RDD[EncodedRatings], index: RatingsIndex, n_user_blocks: int, n_item_blocks: int, storage: StorageLevel
) -> BlockedRatings:
    """Group the ratings by user block and by item block.

    Parameters
    ----------
    storage : where the blocks are kept until they are released

    Raises
    ------
    DataError    the ratings are not those of the index

    Cost: one pass and one shuffle of 5 to 12 bytes a rating and side. The blocks are there when this returns, and do
    not need the encoded ratings to be cached any more, unless one of them is lost.
    """
    layout = Layout(
        index.users.ids,
        index.items.ids,
        index.rating_values,
        index.users.bounds(n_user_blocks),
        index.items.bounds(n_item_blocks),
    )
    sent_layout = ratings.context.broadcast(layout)
    pieces = ratings.flatMap(partial(_cut_into_pieces, sent_layout))
    shuffled = pieces.partitionBy(layout.n_blocks, int)
    blocks: RDD[RatingBlock] = shuffled.mapPartitionsWithIndex(partial(_build_block, sent_layout))
    blocks.persist(storage)
    try:
        mean_rating = _build_all(blocks, layout.n_user_blocks, index.n_training)
    except BaseException:
        blocks.unpersist()
        sent_layout.destroy()
        raise
    return BlockedRatings(blocks, layout.user_bounds, layout.item_bounds, index.n_training, mean_rating, sent_layout)


def _build_all(blocks: RDD[RatingBlock], n_user_blocks: int, n_training: int) -> float:
    """Build the blocks, raise DataError when they do not hold what was counted before, and return the mean rating."""
    sums = blocks.mapPartitionsWithIndex(partial(_sum_ratings, n_user_blocks)).collect()
    sizes, totals, weights = zip(*sums, strict=True)
    if sum(sizes) != 2 * n_training:
        raise DataError(
            f"the ratings changed while they were read: {n_training} at first, then {sum(sizes) / 2:g} of known "
            "ids; write them to a table, or checkpoint them, before training"
        )
    return math.fsum(totals) / math.fsum(weights)


def _sum_ratings(
    n_user_blocks: int, partition: int, blocks: Iterable[RatingBlock]
) -> Iterator[tuple[int, float, float]]:
    """Executor: of each block the number of training ratings; Σ w r and Σ w, which count once, of user blocks."""
    for block in blocks:
        n_ratings = block.train.src.size
        if partition >= n_user_blocks:
            yield n_ratings, 0.0, 0.0
            continue
        train = block.train.unpack()
        weights = np.ones(n_ratings) if train.weights is None else train.weights.astype(np.float64)
        yield n_ratings, float(weights @ train.ratings), float(weights.sum())


def _cut_into_pieces(sent_layout: "Broadcast[Layout]", ratings: EncodedRatings) -> Iterator[tuple[int, Piece]]:
    """Executor: a part of the input in, its pieces out, each with the partition it goes to."""
    layout = sent_layout.value
    users, items = _indices(ratings.users, layout.user_ids), _indices(ratings.items, layout.item_ids)
    n_users, n_items = len(layout.user_ids), len(layout.item_ids)
    values = _recode(ratings, layout.rating_values)
    is_known = (users >= 0) & (items >= 0)
    is_validation = np.zeros(users.size, bool) if ratings.is_validation is None else ratings.is_validation
    for part, chosen in ((False, is_known & ~is_validation), (True, is_known & is_validation)):
        entries = slice(None) if chosen.all() else chosen
        yield from _pieces(part, 0, layout.user_bounds, users[entries], items[entries], values[entries], n_items)
        if not part:
            first_partition = layout.n_user_blocks
            yield from _pieces(
                part, first_partition, layout.item_bounds, items[entries], users[entries], values[entries], n_users
            )


def _indices(encoded: Encoded, ids: pa.Array) -> NDArray[np.int32]:
    """Dense index of each entry's id; -1 where it has none: ids that occur in validation ratings only."""
    index: NDArray[np.int32] = pc.index_in(encoded.values, value_set=ids).fill_null(-1).to_numpy()
    return index[encoded.positions]


def _recode(ratings: EncodedRatings, values: NDArray[Any] | None) -> NDArray[Any]:
    """The ratings as codes of the common table; as they are, where there is none."""
    if ratings.rating_values is None:
        return ratings.ratings
    if values is None:
        decoded: NDArray[Any] = ratings.rating_values[ratings.ratings]
        return decoded
    recoded: NDArray[np.uint8] = np.searchsorted(values, ratings.rating_values).astype(np.uint8)[ratings.ratings]
    return recoded


def _pieces(
    is_validation: bool,
    first_partition: int,
    bounds: NDArray[np.int64],
    dst: NDArray[np.int32],
    src: NDArray[np.int32],
    ratings: NDArray[Any],
    n_src: int,
) -> Iterator[tuple[int, Piece]]:
    block_of_row = np.repeat(np.arange(len(bounds) - 1, dtype=np.int32), np.diff(bounds))
    offsets, dst, src, ratings = group_by_block(block_of_row[dst], len(bounds) - 1, dst, src, ratings)
    for block in np.flatnonzero(np.diff(offsets)).tolist():
        first_row, n_rows = int(bounds[block]), int(bounds[block + 1] - bounds[block])
        for start in range(offsets[block], offsets[block + 1], _RATINGS_IN_PIECE):
            entries = slice(start, min(start + _RATINGS_IN_PIECE, offsets[block + 1]))
            yield (
                first_partition + block,
                Piece(
                    is_validation,
                    (dst[entries] - np.int32(first_row)).astype(index_type(n_rows)),
                    src[entries].astype(index_type(n_src)),
                    ratings[entries],
                ),
            )


def _build_block(
    sent_layout: "Broadcast[Layout]", partition: int, arrived: Iterable[tuple[int, Piece]]
) -> Iterator[RatingBlock]:
    """Executor: the pieces of one block in, its CSR out, in records of about _RATINGS_IN_RECORD ratings."""
    layout = sent_layout.value
    is_user_block = partition < layout.n_user_blocks
    bounds, block = (
        (layout.user_bounds, partition) if is_user_block else (layout.item_bounds, partition - layout.n_user_blocks)
    )
    rows = range(int(bounds[block]), int(bounds[block + 1]))
    if not rows:
        return
    n_src = len(layout.item_ids if is_user_block else layout.user_ids)
    pieces = [piece for _, piece in arrived]
    train, validation = (
        _join_pieces(
            rows, n_src, layout.rating_values, [piece for piece in pieces if piece.is_validation == is_validation]
        )
        for is_validation in (False, True)
    )
    n_parts = min(len(rows), max(1, -(-(train.src.size + validation.src.size) // _RATINGS_IN_RECORD)))
    cuts = cut_evenly(train.row_sizes.astype(np.int64) + validation.row_sizes, n_parts)
    for first, last in pairwise(cuts.tolist()):
        if first < last:
            yield RatingBlock(train.part(first, last), validation.part(first, last))


def _join_pieces(rows: range, n_src: int, rating_values: NDArray[Any] | None, pieces: list[Piece]) -> PackedBlock:
    dst = np.concatenate([np.empty(0, np.int32), *[piece.dst for piece in pieces]], dtype=np.int32)
    src = np.concatenate([np.empty(0, np.int32), *[piece.src for piece in pieces]], dtype=np.int32)
    nothing = np.empty(0, np.float32 if rating_values is None else np.uint8)
    ratings = np.concatenate([piece.ratings for piece in pieces]) if pieces else nothing
    return build_packed_block(rows.start, len(rows), n_src, dst + np.int32(rows.start), src, ratings, rating_values)
