"""Index of a side with too many ids for one place: each block numbers its own ids and tells every part of the input.

A sample cuts the ids into ranges, and each block sorts its range. So every id gets the same dense index as in one
sorted list of all ids.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mfspark.blocks.encode import Encoded, EncodedRatings
from mfspark.blocks.index import MAX_INDEX
from mfspark.blocks.records import Side
from mfspark.engine.engine import Parts, Sent
from mfspark.errors import CapacityError
from mfspark.kernels.balance import Ranges, whole_rows

# Sampled ids per block; a block is then within about ten percent of its share.
_SAMPLES_OF_BLOCK = 64
_LEAST_SAMPLES_OF_RECORD = 32


class WideIndex(NamedTuple):
    """Ids of one side, on the executors."""

    ids: Parts[pa.Array]
    """Part p: the distinct ids of block p, ascending, as one record."""
    ranges: Ranges
    """Block p has the dense indices of range p."""
    indices: Parts[NDArray[np.int32]]
    """For each record of the encoded ratings, the dense index of each dictionary entry; -1 for an id that occurs in
    validation ratings only."""
    numbered: Parts[Any]
    """The kept records that ids and indices are made from."""

    @property
    def n_ids(self) -> int:
        """Number of distinct ids."""
        return self.ranges.n_rows

    def release(self) -> None:
        """Drop the kept records."""
        self.numbered.drop()


class _Ids(NamedTuple):
    """The ids of one record of encoded ratings that belong to one block."""

    part: int
    record: int
    n_entries: int
    """Size of the record's dictionary."""
    positions: NDArray[np.int32]
    """Positions in the dictionary."""
    ids: pa.Array
    n_ratings: NDArray[np.int64]
    """Training ratings of each."""


class _Numbers(NamedTuple):
    """Positions of these ids within the block."""

    record: int
    n_entries: int
    positions: NDArray[np.int32]
    rows: NDArray[np.int32]
    """-1 for an id without training ratings."""


def index_wide_side(ratings: Parts[EncodedRatings], side: Side, n_blocks: int) -> WideIndex:
    """Number the distinct ids of one side of the training ratings in ascending order.

    Raises
    ------
    CapacityError    more distinct ids than an int32 index can number

    Cost: two passes over the dictionaries of the encoded ratings, and two shuffles of the distinct ids of each record.
    The driver gets n_blocks numbers and a sample.
    """
    n_samples = max(_LEAST_SAMPLES_OF_RECORD, _SAMPLES_OF_BLOCK * n_blocks // ratings.n_parts)
    cuts = _cut_points(ratings.run(partial(_sample_part, side, n_samples)), n_blocks)
    sent = ratings.engine.send(cuts)
    pieces = ratings.exchange(partial(_cut_ids, sent, side), n_blocks)
    numbered = pieces.map(_number).keep()
    try:
        return _wide_index(numbered, side, ratings.n_parts)
    except BaseException:
        numbered.drop()
        raise


def _wide_index(numbered: Parts[Any], side: Side, n_parts: int) -> WideIndex:
    ids = numbered.map(_only_ids)
    bounds = np.concatenate([[0], np.cumsum(ids.run(_lengths), dtype=np.int64)])
    if bounds[-1] > MAX_INDEX:
        raise CapacityError(f"found {bounds[-1]} distinct {side} ids; at most {MAX_INDEX} are supported")
    indices = numbered.exchange(partial(_reply, bounds), n_parts).map(_assemble)
    return WideIndex(ids, whole_rows(bounds), indices, numbered)


class _Sample(NamedTuple):
    """A sample of ids, each with the number of ratings that it represents."""

    ids: pa.Array
    weights: NDArray[np.float64]


def _sample_part(side: Side, n_samples: int, _: int, records: Iterable[EncodedRatings]) -> Iterator[_Sample]:
    """Executor: the samples of the records of one part."""
    return map(partial(_sample, side, n_samples), records)


def _sample(side: Side, n_samples: int, ratings: EncodedRatings) -> _Sample:
    """Sample the ids of one record at equal steps of its training ratings."""
    encoded, n_ratings = _counted(ratings, side)
    order = pc.sort_indices(encoded.values).to_numpy()
    running = np.cumsum(n_ratings[order])
    total = int(running[-1]) if running.size else 0
    n_samples = min(n_samples, total)
    steps = total * (np.arange(n_samples) + 0.5) / max(n_samples, 1)
    chosen = order[np.searchsorted(running, steps, side="right")]
    return _Sample(encoded.values.take(pa.array(chosen)), np.full(n_samples, total / max(n_samples, 1)))


def _cut_points(samples: list[_Sample], n_blocks: int) -> pa.Array:
    """First ids of blocks 1 .. n_blocks - 1, ascending; the blocks get about the same number of ratings."""
    ids = pa.concat_arrays([sample.ids for sample in samples])
    order = pc.sort_indices(ids)
    running = np.cumsum(np.concatenate([sample.weights for sample in samples])[order.to_numpy()])
    shares = running[-1] * np.arange(1, n_blocks) / n_blocks
    return ids.take(order).take(pa.array(np.searchsorted(running, shares)))


def _counted(ratings: EncodedRatings, side: Side) -> tuple[Encoded, NDArray[np.int64]]:
    """One side of a record, and the number of training ratings of each dictionary entry."""
    encoded = ratings.users if side == "user" else ratings.items
    is_validation = ratings.is_validation
    positions = encoded.positions if is_validation is None else encoded.positions[~is_validation]
    return encoded, np.bincount(positions, minlength=len(encoded.values))


def _cut_ids(
    sent: Sent[pa.Array], side: Side, part: int, records: Iterable[EncodedRatings]
) -> Iterator[tuple[int, _Ids]]:
    """Executor: records of one part in; their ids out, each with its block."""
    for record, ratings in enumerate(records):
        encoded, n_ratings = _counted(ratings, side)
        blocks = blocks_of(encoded.values, sent.value)
        order = np.argsort(blocks, kind="stable").astype(np.int32)
        values, starts = np.unique(blocks[order], return_index=True)
        for block, entries in zip(values.tolist(), np.split(order, starts[1:]), strict=True):
            ids = encoded.values.take(pa.array(entries))
            yield block, _Ids(part, record, len(encoded.values), entries, ids, n_ratings[entries])


def blocks_of(ids: pa.Array, cuts: pa.Array) -> NDArray[np.int64]:
    """int64[n_ids], the block of each id: the number of cuts that are not above it."""
    if not len(ids):
        return np.empty(0, np.int64)
    # Ranks work for any type that Arrow can sort; a cut comes before an id that equals it.
    ranks = pc.rank(pa.concat_arrays([cuts.cast(ids.type), ids]), tiebreaker="first").to_numpy().astype(np.int64)
    blocks: NDArray[np.int64] = np.searchsorted(ranks[: len(cuts)], ranks[len(cuts) :])
    return blocks


def _number(_: int, pieces: Iterable[tuple[int, _Ids]]) -> Iterator[Any]:
    """Executor: all ids of one block in; out, the sorted distinct ids, then (part, numbers) for each piece."""
    arrived = [piece for _target, piece in pieces]
    if not arrived:
        yield pa.nulls(0)
        return
    columns = {
        "id": pa.concat_arrays([piece.ids for piece in arrived]),
        "n_ratings": np.concatenate([piece.n_ratings for piece in arrived]),
    }
    counted = pa.table(columns).group_by("id", use_threads=False).aggregate([("n_ratings", "sum")])
    ids = counted.filter(pc.field("n_ratings_sum") > 0).sort_by("id")["id"].combine_chunks()
    yield ids
    for piece in arrived:
        rows = pc.index_in(piece.ids, value_set=ids).fill_null(-1).to_numpy()
        yield piece.part, _Numbers(piece.record, piece.n_entries, piece.positions, rows)


def _is_ids(record: Any) -> bool:
    return isinstance(record, pa.Array)


def _only_ids(_: int, records: Iterable[Any]) -> Iterator[pa.Array]:
    """Executor: the ids of one block."""
    return filter(_is_ids, records)


def _lengths(_: int, ids: Iterable[pa.Array]) -> Iterator[int]:
    """Executor: the number of ids of one block."""
    return map(len, ids)


def _reply(bounds: NDArray[np.int64], block: int, records: Iterable[Any]) -> Iterator[tuple[int, _Numbers]]:
    """Executor: numbers within a block in; dense indices out, to the part that asked."""
    for record in records:
        if not _is_ids(record):
            part, numbers = record
            is_known = numbers.rows >= 0
            rows = np.where(is_known, numbers.rows + bounds[block], -1).astype(np.int32)
            yield part, numbers._replace(rows=rows)


def _assemble(_: int, replies: Iterable[tuple[int, _Numbers]]) -> Iterator[NDArray[np.int32]]:
    """Executor: the dense indices of the dictionaries of one part, record by record."""
    indices: dict[int, NDArray[np.int32]] = {}
    for _target, numbers in replies:
        index = indices.setdefault(numbers.record, np.full(numbers.n_entries, -1, np.int32))
        index[numbers.positions] = numbers.rows
    for record in sorted(indices):
        yield indices[record]
