"""Block: encoded ratings to in-blocks, one CSR block for each range of users and of items.

Ratings cross the exchange as a few large buffers ("pieces"): each part of the input sorts its ratings by
destination block, once for each side, and sends one piece to each block. A piece is three arrays, not one record
per rating.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mfspark.blocks.blocked import BlockedRatings, SideBlocks, changed_ratings
from mfspark.blocks.encode import Encoded, EncodedRatings
from mfspark.blocks.index import IdIndex, RatingsIndex
from mfspark.blocks.records import OTHER, OutBlock, RatingBlock, Side
from mfspark.blocks.wide_index import WideIndex
from mfspark.engine.engine import Parts, Sent
from mfspark.errors import DataError
from mfspark.kernels.balance import Ranges, cut_evenly
from mfspark.kernels.csr import PackedBlock, build_packed_block, group_by_block, index_type
from mfspark.kernels.digest import digest_of, total

# Ratings in one buffer of the shuffle and of the cache: 1 to 2 MB. With one buffer of 40 MB per block, the JVM's
# collector grew the heap by a third to fit each buffer in one piece.
_RATINGS_IN_PIECE = 1 << 17
_RATINGS_IN_RECORD = 1 << 18


class Piece(NamedTuple):
    """Ratings of one part of the input that belong to one block."""

    is_validation: bool
    dst: NDArray[np.uint16] | NDArray[np.int32]
    """Row within the block."""
    src: NDArray[np.uint16] | NDArray[np.int32]
    ratings: NDArray[Any]
    """Values of the encoded ratings; codes if the layout has a table of values."""


class Layout(NamedTuple):
    """The block of each rating; sent to every task."""

    user_ids: pa.Array | None
    """None for a wide side: its dense indices come with the ratings."""
    item_ids: pa.Array | None
    rating_values: NDArray[Any] | None
    users: Ranges
    items: Ranges

    def ids(self, side: Side) -> pa.Array | None:
        """Raw ids of a narrow side."""
        return self.user_ids if side == "user" else self.item_ids

    def ranges(self, side: Side) -> Ranges:
        """Blocks of a side."""
        return self.users if side == "user" else self.items


class SideIds(NamedTuple):
    """The index of each side: on the driver, or on the executors for a wide side."""

    users: IdIndex | WideIndex
    items: IdIndex | WideIndex

    @property
    def wide(self) -> dict[Side, WideIndex]:
        """The sides whose ids are not on the driver."""
        sides: dict[Side, IdIndex | WideIndex] = {"user": self.users, "item": self.items}
        return {side: ids for side, ids in sides.items() if isinstance(ids, WideIndex)}


Numbered = tuple[EncodedRatings, dict[Side, NDArray[np.int32]]]
"""Encoded ratings and, for wide sides, the dense index of each dictionary entry."""


def build_blocks(ratings: Parts[EncodedRatings], index: RatingsIndex, layout: Layout, ids: SideIds) -> BlockedRatings:
    """Group the ratings by user block and by item block.

    Parameters
    ----------
    layout : `layout_of` the ids
    ids : index of both sides

    Raises
    ------
    DataError    the ratings differ from those of the index

    Cost: one pass and one exchange of 5 to 12 bytes per rating and side; with a wide side, one for each side. The
    blocks are complete when this returns. They need the encoded ratings again only if a block is lost.
    """
    sent_layout = ratings.engine.send(layout)
    numbered = _with_indices(ratings, ids)
    # One exchange for both sides; but tasks on a wide side's blocks must not run on the blocks of the other side.
    groups: list[list[Side]] = [["user"], ["item"]] if ids.wide else [["user", "item"]]
    sides: dict[Side, SideBlocks] = {}
    for group in groups:
        parts, first = _blocks_of(numbered, layout, sent_layout, group).keep(), 0
        if ids.wide:
            parts = parts.dropped_with(sent_layout)
        for side in group:
            ranges = layout.ranges(side)
            sides[side] = SideBlocks(parts, first, ranges, ids.users if side == "user" else ids.items)
            first += ranges.n_blocks
    blocked = BlockedRatings(ratings.engine, sides["user"], sides["item"], index.n_training, 0.0, sent_layout)
    try:
        mean_rating, digest = _build_all(blocked)
        return replace(_with_out_blocks(blocked), mean_rating=mean_rating, digest=digest)
    except BaseException:
        blocked.release()
        raise


def layout_of(
    index: RatingsIndex, ids: SideIds, n_user_blocks: int, n_item_blocks: int, *, are_rows_whole: bool = False
) -> Layout:
    """Assign ratings to about this many blocks per side; a wide side keeps the ranges of its index."""
    raw_ids: list[pa.Array | None] = []
    ranges: list[Ranges] = []
    for side, n_blocks in ((ids.users, n_user_blocks), (ids.items, n_item_blocks)):
        is_wide = isinstance(side, WideIndex)
        raw_ids.append(None if is_wide else side.ids)
        ranges.append(side.ranges if is_wide else side.ranges(n_blocks, are_rows_whole=are_rows_whole))  # type: ignore[operator, arg-type]
    return Layout(raw_ids[0], raw_ids[1], index.rating_values, ranges[0], ranges[1])


def _with_indices(ratings: Parts[EncodedRatings], ids: SideIds) -> Parts[Numbered]:
    numbered: Parts[Numbered] = ratings.map(_without_indices)
    for side, index in ids.wide.items():
        numbered = numbered.zip(index.indices).map(partial(_add_index, side))
    return numbered


def _without_indices(_: int, records: Iterable[EncodedRatings]) -> Iterator[Numbered]:
    return ((ratings, {}) for ratings in records)


def _add_index(side: Side, _: int, pairs: Iterable[tuple[Numbered, NDArray[np.int32]]]) -> Iterator[Numbered]:
    return ((ratings, {**indices, side: index}) for (ratings, indices), index in pairs)


def _blocks_of(
    numbered: Parts[Numbered], layout: Layout, sent_layout: Sent[Layout], group: list[Side]
) -> Parts[RatingBlock]:
    """The blocks of some sides, one part each, the first side first."""
    n_blocks = sum(layout.ranges(side).n_blocks for side in group)
    pieces = numbered.exchange(partial(_cut_part_into_pieces, sent_layout, group), n_blocks)
    return pieces.map(partial(_build_block, sent_layout, group))


def _build_all(blocked: BlockedRatings) -> tuple[float, int]:
    """Build the blocks; return the mean rating and the digest of all ratings.

    Raises
    ------
    DataError    the ratings are not those of the index, or user blocks and item blocks have different ones
    """
    sums = blocked.users.parts.run(partial(_sum_ratings, blocked.users.ranges.n_blocks))
    if blocked.items.parts is not blocked.users.parts:
        sums += blocked.items.parts.run(partial(_sum_ratings, 0))
    sizes, totals, weights, of_users, of_items = zip(*sums, strict=True)
    if sum(sizes) != 2 * blocked.n_ratings:
        raise DataError(
            f"the ratings changed between two reads: {blocked.n_ratings} in the first, {sum(sizes) / 2:g} with known "
            "ids in the second; write them to a table or checkpoint them before training"
        )
    if total(of_users) != total(of_items):
        raise changed_ratings()
    return math.fsum(totals) / math.fsum(weights), total(of_users)


def _sum_ratings(
    n_user_blocks: int, part: int, blocks: Iterable[RatingBlock]
) -> Iterator[tuple[int, float, float, int, int]]:
    """Executor: the number of training ratings of each block; Σ w r and Σ w of user blocks only, to count once; the
    digest of a user block and of an item block.
    """
    for block in blocks:
        n_ratings = block.train.src.size
        if part >= n_user_blocks:
            yield n_ratings, 0.0, 0.0, 0, block.digest
            continue
        train = block.train.unpack()
        weights = np.ones(n_ratings) if train.weights is None else train.weights.astype(np.float64)
        yield n_ratings, float(weights @ train.ratings), float(weights.sum()), block.digest, 0


def _with_out_blocks(blocked: BlockedRatings) -> BlockedRatings:
    """Tell each block of a wide side which of its rows each block of the other side needs."""

    def told(blocks: SideBlocks, sources: SideBlocks) -> SideBlocks:
        if not sources.is_wide:
            return blocks
        out_blocks = blocks.parts.exchange(partial(_request_rows, sources.ranges), sources.ranges.n_blocks).keep()
        out_blocks.compute()
        return replace(blocks, out_blocks=out_blocks)

    return replace(blocked, users=told(blocked.users, blocked.items), items=told(blocked.items, blocked.users))


def _request_rows(sources: Ranges, part: int, blocks: Iterable[RatingBlock]) -> Iterator[tuple[int, OutBlock]]:
    """Executor: the records of a block in; out, the rows that it needs from each block of a wide source side."""
    for block in blocks:
        if block.sources is not None:
            of_rows = sources.blocks_of(block.sources)
            for source in np.unique(of_rows).tolist():
                yield source, OutBlock(part, block.sources[of_rows == source])


def _cut_part_into_pieces(
    sent_layout: Sent[Layout], group: list[Side], _: int, records: Iterable[Numbered]
) -> Iterator[tuple[int, Piece]]:
    """Executor: a part of the input in; its pieces for the blocks of some sides out, each with its target."""
    for numbered in records:
        yield from _cut_into_pieces(sent_layout.value, group, numbered)


def _cut_into_pieces(layout: Layout, group: list[Side], numbered: Numbered) -> Iterator[tuple[int, Piece]]:
    ratings, indices = numbered
    rows: dict[Side, NDArray[np.int32]] = {
        "user": _indices(ratings.users, layout.user_ids, indices.get("user"), layout.users.n_rows),
        "item": _indices(ratings.items, layout.item_ids, indices.get("item"), layout.items.n_rows),
    }
    values, are_known = _recode(ratings, layout.rating_values)
    # A rating with another id or value than those of the index was not there when the input was first read.
    is_known = (rows["user"] >= 0) & (rows["item"] >= 0) & are_known
    is_validation = np.zeros(values.size, bool) if ratings.is_validation is None else ratings.is_validation
    first_part = 0
    for side in group:
        other = OTHER[side]
        ranges, others = layout.ranges(side), layout.ranges(other)
        for part, chosen in ((False, is_known & ~is_validation), (True, is_known & is_validation)):
            if part and side == "item":
                continue
            entries = slice(None) if chosen.all() else chosen
            pieces = _pieces(ranges, others.n_rows, rows[side][entries], rows[other][entries], values[entries])
            for block, dst, src, ratings_of_piece in pieces:
                yield first_part + block, Piece(part, dst, src, ratings_of_piece)
        first_part += ranges.n_blocks


def _indices(encoded: Encoded, ids: pa.Array | None, index: NDArray[np.int32] | None, n_rows: int) -> NDArray[np.int32]:
    """Dense index of each entry's id; -1 for ids that occur in validation ratings only.

    index : of a wide side. If lost ratings were read again and were not the same, it may not be that of these ids.
    """
    if index is None:
        index = pc.index_in(encoded.values, value_set=ids).fill_null(-1).to_numpy()
    elif index.size != len(encoded.values):
        index = np.full(len(encoded.values), -1, np.int32)
    return np.where(index < n_rows, index, np.int32(-1))[encoded.positions]


def _recode(ratings: EncodedRatings, values: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[np.bool_] | np.bool_]:
    """The ratings as codes of the common table, unchanged if there is no table; and whether the table has them."""
    if ratings.rating_values is None:
        return ratings.ratings, np.bool_(values is None)
    if values is None:
        return ratings.rating_values[ratings.ratings], np.bool_(True)
    codes = np.searchsorted(values[:-1], ratings.rating_values).astype(np.uint8)
    are_known = values[codes] == ratings.rating_values
    return codes[ratings.ratings], np.bool_(True) if are_known.all() else are_known[ratings.ratings]


def _pieces(
    ranges: Ranges, n_src: int, dst: NDArray[np.int32], src: NDArray[np.int32], ratings: NDArray[Any]
) -> Iterator[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Ratings by block, at most _RATINGS_IN_PIECE each: block number, row within the block, source, rating."""
    blocks = ranges.blocks_of_entries(dst, src)
    offsets, dst, src, ratings = group_by_block(blocks, ranges.n_blocks, dst, src, ratings)
    for block in np.flatnonzero(np.diff(offsets)).tolist():
        rows = ranges.rows_of(block)
        for start in range(offsets[block], offsets[block + 1], _RATINGS_IN_PIECE):
            entries = slice(start, min(start + _RATINGS_IN_PIECE, offsets[block + 1]))
            yield (
                block,
                (dst[entries] - np.int32(rows.start)).astype(index_type(len(rows))),
                src[entries].astype(index_type(n_src)),
                ratings[entries],
            )


def _build_block(
    sent_layout: Sent[Layout], group: list[Side], part: int, arrived: Iterable[tuple[int, Piece]]
) -> Iterator[RatingBlock]:
    """Executor: the pieces of one block in; its CSR out, in records of about _RATINGS_IN_RECORD ratings."""
    layout, block = sent_layout.value, part
    side = group[0]
    if block >= layout.ranges(side).n_blocks:
        block, side = block - layout.ranges(side).n_blocks, group[1]
    other = OTHER[side]
    ranges, n_src = layout.ranges(side), layout.ranges(other).n_rows
    rows = ranges.rows_of(block)
    if not rows:
        return
    pieces = [piece for _, piece in arrived]
    digest = total(_digest_of(side, rows, piece) for piece in pieces if not piece.is_validation)
    train, validation = (
        _join_pieces(
            rows, n_src, layout.rating_values, [piece for piece in pieces if piece.is_validation == is_validation]
        )
        for is_validation in (False, True)
    )
    sources = None
    if layout.ids(other) is None:
        sources = np.union1d(train.src, validation.src).astype(np.int32)
        train, validation = (_among(sources, part) for part in (train, validation))
    n_parts = min(len(rows), max(1, -(-(train.src.size + validation.src.size) // _RATINGS_IN_RECORD)))
    cuts = cut_evenly(train.row_sizes.astype(np.int64) + validation.row_sizes, n_parts)
    for first, last in pairwise(cuts.tolist()):
        if first < last:
            of_rows = train.part(first, last), validation.part(first, last)
            yield RatingBlock(*of_rows, ranges.is_part(block), sources, digest)
            sources, digest = None, 0


def _digest_of(side: Side, rows: range, piece: Piece) -> int:
    dst = piece.dst.astype(np.int32) + np.int32(rows.start)
    users, items = (dst, piece.src) if side == "user" else (piece.src, dst)
    return digest_of(users, items, piece.ratings)


def _among(sources: NDArray[np.int32], block: PackedBlock) -> PackedBlock:
    """The block with each source replaced by its position among these."""
    return block._replace(src=np.searchsorted(sources, block.src).astype(index_type(sources.size)))


def _join_pieces(rows: range, n_src: int, rating_values: NDArray[Any] | None, pieces: list[Piece]) -> PackedBlock:
    dst = np.concatenate([np.empty(0, np.int32), *[piece.dst for piece in pieces]], dtype=np.int32)
    src = np.concatenate([np.empty(0, np.int32), *[piece.src for piece in pieces]], dtype=np.int32)
    nothing = np.empty(0, np.float32 if rating_values is None else np.uint8)
    ratings = np.concatenate([piece.ratings for piece in pieces]) if pieces else nothing
    return build_packed_block(rows.start, len(rows), n_src, dst + np.int32(rows.start), src, ratings, rating_values)
