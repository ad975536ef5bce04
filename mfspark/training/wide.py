"""Factors of a wide side: where they start, and how they come from a checkpoint or an initial model."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql.types import BinaryType, DataType, FractionalType, IntegralType, LongType, StructField, StructType

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.records import RatingBlock, Side
from mfspark.blocks.wide_index import WideIndex, blocks_of
from mfspark.engine.engine import Engine, Parts, Sent, without_targets
from mfspark.errors import SchemaError
from mfspark.training.exchange import BlockUpdate, FactorRows, Factors, WideFactors, gather_rows
from mfspark.training.factor_tables import FactorTable, factor_matrix

_SCHEMA = StructType(
    [StructField("first_row", LongType()), StructField("n_rows", LongType()), StructField("factors", BinaryType())]
)
_BATCH = pa.schema([("first_row", pa.int64()), ("n_rows", pa.int64()), ("factors", pa.binary())])
# Rows of factors in one row of a table: 2.5 MB at rank 64.
_ROWS_STORED_TOGETHER = 10_000


class StoredFactors(NamedTuple):
    """Factors of a side that was wide, in a table of rows by their place in the factor matrix."""

    table: DataFrame
    """first_row bigint, n_rows bigint, factors binary: float32[n_rows, n_columns]."""
    scale: float
    """As in `WideFactors`."""


def stored(factors: WideFactors) -> StoredFactors:
    """The factors of a wide side as a table; lazy. The rows do not reach the driver."""
    table = factors.parts.engine.to_table(factors.parts.map(_to_batches), _SCHEMA)
    return StoredFactors(table, factors.scale)


def started(
    ratings: BlockedRatings, side: Side, first_rows: Callable[[int, range], Factors], seed: int
) -> Parts[FactorRows | BlockUpdate]:
    """The initial rows of a wide side, made where its blocks are; lazy.

    first_rows : of a seed and a range of rows
    """
    blocks = ratings.of(side)
    return blocks.parts.map(partial(_start_part, first_rows, seed, blocks.ranges.bounds))


def placed(ratings: BlockedRatings, side: Side, factors: Factors | StoredFactors, rank: int) -> Factors | WideFactors:
    """Factors of a checkpoint where this training keeps them: on the driver, or on the executors for a wide side.

    Each side may have been wide or narrow when the checkpoint was written, in other blocks.
    """
    is_wide, engine = ratings.of(side).is_wide, ratings.engine
    if isinstance(factors, StoredFactors):
        rows = engine.read(factors.table).map(_from_batches)
        if is_wide:
            return _spread(ratings, side, rows, rank, factors.scale)
        return gather_rows(rows.collect(), rank, factors.scale)
    return spread(ratings, side, factors, rank) if is_wide else factors


def spread(ratings: BlockedRatings, side: Side, factors: Factors, rank: int) -> WideFactors:
    """Bring the rows of a matrix on the driver to the blocks of a side."""
    sent = ratings.engine.send(factors)
    try:
        return _spread(ratings, side, _rows_of(ratings.engine, sent, len(factors)), rank)
    finally:
        sent.drop()


class InitialRows(NamedTuple):
    """Factors of an earlier training for the rows of one block."""

    factors: FactorRows
    are_known: NDArray[np.bool_]
    """bool[n_rows], whether the earlier training had the row; other rows are zeros."""


def initial_wide_factors(
    ratings: BlockedRatings, side: Side, initial: FactorTable, n_columns: int, rank: int
) -> tuple[WideFactors, NDArray[np.bool_]]:
    """Factors of an earlier training for the ids of a wide side, zeros for an id that it did not have.

    Returns
    -------
    factors
    are_known    bool[n_used_blocks], whether the earlier training had all ids of a block

    Raises
    ------
    SchemaError    the ids are of another type

    Cost: one shuffle of the initial factors; the driver gets one id of each block.
    """
    blocks, engine = ratings.of(side), ratings.engine
    assert isinstance(blocks.ids, WideIndex)
    first_ids = blocks.ids.ids.run(_first_id)
    _require_same_kind(initial.id_type, ratings.id_types[side])
    sent = engine.send((pa.concat_arrays(first_ids[1:]) if first_ids[1:] else first_ids[0][:0], blocks.ranges.used))
    arrived = initial.on(engine).exchange(partial(_to_blocks, sent), blocks.parts.n_parts)
    matched = arrived.beside(blocks.ids.ids).map(partial(_match, blocks.ranges.bounds, n_columns)).keep()
    are_known = np.array(matched.run(_are_known), bool)
    parts: Parts[FactorRows | BlockUpdate] = matched.map(_only_factors).keep(is_only_copy=True)
    factors = computed(ratings, WideFactors(parts, blocks.ranges.n_rows, rank, is_only_copy=True))
    matched.drop()
    sent.drop()
    return factors, are_known


def _require_same_kind(found: DataType, expected: DataType) -> None:
    """Models of whole floating-point ids have integer ids."""
    is_whole = isinstance(expected, FractionalType) and isinstance(found, IntegralType)
    if found != expected and not is_whole:
        raise SchemaError(
            f"the initial model has {found.simpleString()} ids, the ratings have {expected.simpleString()} ids; cast "
            "the ratings' ids"
        )


def _spread(ratings: BlockedRatings, side: Side, rows: Parts[FactorRows], rank: int, scale: float = 1.0) -> WideFactors:
    """Bring rows to their blocks."""
    blocks = ratings.of(side)
    cut = partial(_cut_rows, blocks.ranges.bounds)
    # What they are read from may be deleted, so they are computed now and never again.
    parts: Parts[FactorRows | BlockUpdate] = (
        rows.exchange(cut, blocks.parts.n_parts).map(without_targets).keep(is_only_copy=True)
    )
    return computed(ratings, WideFactors(parts, blocks.ranges.n_rows, rank, scale, is_only_copy=True))


def computed(ratings: BlockedRatings, factors: WideFactors) -> WideFactors:
    """The factors, computed now and kept with the ratings until an iteration replaces them."""
    ratings.keep(factors.parts)
    factors.parts.compute()
    return factors


def _rows_of(engine: Engine, sent: Sent[Factors], n_rows: int) -> Parts[FactorRows]:
    """The rows of a matrix, in parts of the engine."""
    n_parts = engine.n_cores
    bounds = np.linspace(0, n_rows, n_parts + 1).astype(np.int64)
    return engine.numbers(n_parts).map(partial(_take_rows, sent, bounds))


def _start_part(
    first_rows: Callable[[int, range], Factors],
    seed: int,
    bounds: NDArray[np.int64],
    part: int,
    blocks: Iterable[RatingBlock],
) -> Iterator[FactorRows | BlockUpdate]:
    """Executor: the initial factors of one block of a wide side."""
    for _ in blocks:
        pass  # Spark does not reuse a worker that leaves input unread
    rows = slice(int(bounds[part]), int(bounds[part + 1]))
    if rows.start < rows.stop:
        yield FactorRows(rows, first_rows(seed, range(rows.start, rows.stop)))


def _take_rows(sent: Sent[Factors], bounds: NDArray[np.int64], _: int, numbers: Iterable[int]) -> Iterator[FactorRows]:
    """Executor: the rows of each part."""
    for number in numbers:
        rows = slice(int(bounds[number]), int(bounds[number + 1]))
        yield FactorRows(rows, sent.value[rows])


def _to_batches(_: int, parts: Iterable[FactorRows | BlockUpdate]) -> Iterator[pa.RecordBatch]:
    """Executor: rows of a wide side in; rows of its table out."""
    for part in parts:
        for start in range(0, len(part.factors), _ROWS_STORED_TOGETHER):
            rows = np.ascontiguousarray(part.factors[start : start + _ROWS_STORED_TOGETHER])
            yield pa.RecordBatch.from_arrays([[part.rows.start + start], [len(rows)], [rows.tobytes()]], schema=_BATCH)


def _from_batches(_: int, batches: Iterable[pa.RecordBatch]) -> Iterator[FactorRows]:
    """Executor, or the driver: the reverse of `_to_batches`."""
    for batch in batches:
        for row in range(batch.num_rows):
            first_row, n_rows = batch["first_row"][row].as_py(), batch["n_rows"][row].as_py()
            factors = np.frombuffer(batch["factors"][row].as_buffer(), np.float32).reshape(n_rows, -1)
            yield FactorRows(slice(first_row, first_row + n_rows), factors)


def _cut_rows(
    bounds: NDArray[np.int64], _: int, records: Iterable[FactorRows]
) -> Iterator[tuple[int, FactorRows | BlockUpdate]]:
    """Executor: rows in; out, the rows of each block with its number."""
    for rows, factors in records:
        first, last = np.searchsorted(bounds, [rows.start, rows.stop - 1], side="right") - 1
        for block in range(int(first), int(last) + 1):
            start, stop = max(rows.start, int(bounds[block])), min(rows.stop, int(bounds[block + 1]))
            if start < stop:
                yield block, FactorRows(slice(start, stop), factors[start - rows.start : stop - rows.start])


def _first_id(_: int, ids: Iterable[pa.Array]) -> Iterator[pa.Array]:
    """Executor: the first id of a block that has ids."""
    return (of_block.take(pa.array([0])) for of_block in ids if len(of_block))


def _to_blocks(
    sent: Sent[tuple[pa.Array, NDArray[np.int64]]], _: int, batches: Iterable[pa.RecordBatch]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Executor: rows of a factor table in; out, the rows for each block, which may not have all of these ids."""
    cuts, used = sent.value
    for batch in batches:
        blocks = used[blocks_of(batch["id"].cast(cuts.type), cuts)]
        for block in np.unique(blocks).tolist():
            yield block, batch.filter(pa.array(blocks == block))


def _match(bounds: NDArray[np.int64], n_columns: int, part: int, records: Iterable[Any]) -> Iterator[InitialRows]:
    """Executor: initial rows and the ids of one block in; the factors of these ids out."""
    batches: list[pa.RecordBatch] = []
    for record in records:
        if not isinstance(record, pa.Array):
            batches.append(record[1])
        elif len(record):
            factors = np.zeros((len(record), n_columns), np.float32)
            are_known = np.zeros(len(record), bool)
            for batch in batches:  # they come before the ids
                rows = pc.index_in(batch["id"].cast(record.type), value_set=record)
                is_wanted = rows.is_valid().to_numpy(zero_copy_only=False)
                wanted = rows.drop_null().to_numpy()
                factors[wanted] = factor_matrix(batch)[is_wanted]
                are_known[wanted] = True
            yield InitialRows(FactorRows(slice(int(bounds[part]), int(bounds[part + 1])), factors), are_known)


def _are_known(_: int, records: Iterable[InitialRows]) -> Iterator[bool]:
    return (bool(record.are_known.all()) for record in records)


def _only_factors(_: int, records: Iterable[InitialRows]) -> Iterator[FactorRows | BlockUpdate]:
    return (record.factors for record in records)
