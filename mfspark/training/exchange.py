"""Exchange: how the source factors reach the blocks, and where the solved rows go.

A side is narrow or wide. The factors of a narrow side are one matrix on the driver, sent to all tasks that need them.
Those of a wide side, which is too large for that, never meet in one place: each block keeps its own, and sends to each
block of the other side the rows that this one needs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.records import OTHER, OutBlock, RatingBlock, Side
from mfspark.engine.engine import Parts, Sent
from mfspark.kernels.padding import pad_factors
from mfspark.kernels.quadratic import Quadratic

Factors = NDArray[np.float32]


class PaddedFactors:
    """Source factors, padded for the kernels where they are used: they travel as they are."""

    def __init__(self, factors: Factors) -> None:
        self._factors = factors

    def __len__(self) -> int:
        return len(self._factors)

    @cached_property
    def matrix(self) -> Factors:
        """float32[n, padded_rank(n_columns)], made on first use."""
        return pad_factors(self._factors)

    def __reduce__(self) -> tuple[Any, ...]:
        return PaddedFactors, (self._factors,)


class Source(NamedTuple):
    """The side that is held fixed, as a block needs it."""

    factors: PaddedFactors
    """float32[n_src, n_columns]."""
    biases: NDArray[np.float32] | None
    """float32[n_src], where there are biases."""
    gram: NDArray[np.float32] | None
    """float32[padded_rank(n_columns)²], Σ y yᵀ over all sources, where it is needed."""
    n_rows: int
    """Number of rows of the side; of a wide side, a block has only some of them as its sources."""


class FactorRows(NamedTuple):
    """Some rows of a side."""

    rows: slice
    """Place in the factor matrix of the side."""
    factors: Factors
    """float32[n_rows, n_columns]."""


class BlockUpdate(NamedTuple):
    """The solved rows of a block, with their errors and penalties."""

    rows: slice
    """Place of the solved rows in the factor matrix of their side."""
    factors: Factors
    """float32[n_rows, n_columns]."""
    singular_row: int
    """Dense index of a row whose normal equation has no unique solution; -1 where there is none."""
    overflowed_row: int
    """Dense index of a row with factors that are infinite or no numbers; -1 where there is none."""
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


class RowSums(NamedTuple):
    """Sums over some of the ratings of one row that has too many for one block."""

    row: int
    """Dense index."""
    train: Quadratic
    """The error of its training ratings as a function of the row's factors."""
    validation: Quadratic
    n_counted: float
    """How many of the ratings λ counts, by weight."""
    weight: float
    validation_weight: float

    @property
    def rows(self) -> slice:
        """Place of the row in the factor matrix of its side."""
        return slice(self.row, self.row + 1)

    def plus(self, other: "RowSums") -> "RowSums":
        """The sums over both parts."""
        return RowSums(
            self.row,
            self.train.plus(other.train),
            self.validation.plus(other.validation),
            self.n_counted + other.n_counted,
            self.weight + other.weight,
            self.validation_weight + other.validation_weight,
        )


@dataclass(frozen=True)
class WideFactors:
    """Factors of a wide side, on the executors."""

    parts: Parts[FactorRows | BlockUpdate]
    """Part p: the rows of block p, kept as the blocks of ratings are."""
    n_rows: int
    rank: int
    """Columns that `scale` is for; a bias behind them is as it is."""
    scale: float = 1.0
    """Factor by which the rows must be multiplied."""

    def __len__(self) -> int:
        return self.n_rows


class BlockSolver(Protocol):
    """The work of a task; pickles."""

    @property
    def starts_from_old(self) -> bool:
        """Whether `update_block` needs the factors that it replaces."""

    def source(self, factors: Factors, gram: NDArray[np.float64] | None, n_rows: int | None = None) -> Source:
        """The side that is held fixed, as a block needs it."""

    def update_block(self, side: Side, block: RatingBlock, source: Source, old_factors: Factors | None) -> BlockUpdate:
        """Solve one block of whole rows."""

    def sum_part(self, side: Side, block: RatingBlock, source: Source) -> RowSums:
        """Sums over some of the ratings of one row."""


class _Fixed(NamedTuple):
    """The value that a half-iteration sends to all tasks."""

    source: Source | None
    """None: a wide side, of which each block gets its own sources."""
    gram: NDArray[np.float64] | None
    """Of a wide side, where it is needed."""
    n_src: int
    old_factors: Factors | None


class _Delivery(NamedTuple):
    """Source rows on their way from one block to one of the other side."""

    origin: int
    factors: Factors


def update_side(
    ratings: BlockedRatings,
    side: Side,
    solver: BlockSolver,
    fixed: Factors | WideFactors,
    gram: NDArray[np.float64] | None,
    old: Factors | WideFactors,
) -> tuple[list[BlockUpdate | RowSums], WideFactors | None]:
    """Solve every block of one side, the other side held fixed.

    Parameters
    ----------
    fixed, gram : factors of the other side and, where it is needed, their Gram matrix
    old : factors that the solved rows replace

    Returns
    -------
    updates    in the order of their rows; without factors and scales where the side is wide
    factors    of a wide side, computed and kept; None for a narrow one

    Cost, narrow sources: n_src·rank·4 bytes, and n_dst·rank·4 more for a solver that starts from the old factors, to
    every Python worker. Wide sources: one shuffle of rank·4 bytes for each pair of a row and a block that needs it.
    Narrow destinations: n_dst·rank·4 bytes back to the driver. One task a block, on Spark in one job.
    """
    blocks, engine = ratings.of(side), ratings.engine
    is_wide = isinstance(old, WideFactors)
    old_factors = old if solver.starts_from_old and not isinstance(old, WideFactors) else None
    records: Parts[Any] = blocks.parts
    if isinstance(fixed, WideFactors):
        sent = engine.send(_Fixed(None, gram, fixed.n_rows, old_factors))
        records = _delivered(ratings, side, fixed).beside(blocks.parts)
    else:
        sent = engine.send(_Fixed(solver.source(fixed, gram), None, len(fixed), old_factors))
    update = partial(_update_part, sent, solver, side)
    if not is_wide:
        try:
            return records.run(update, blocks.used), None
        finally:
            sent.drop()
    # No row of a wide side has parts. Solved from wide sources, which will be dropped, it cannot be solved again.
    solved: Parts[Any] = records.map(update).keep(is_only_copy=isinstance(fixed, WideFactors)).dropped_with(sent)
    factors = WideFactors(solved, old.n_rows, old.rank)  # type: ignore[union-attr]  # it is wide
    ratings.keep(factors.parts)
    return solved.run(_without_rows), factors


def gather_rows(parts: Iterable[FactorRows | BlockUpdate], rank: int, scale: float) -> Factors:
    """The rows of one block of a wide side as one matrix, as `WideFactors` means them. Runs on executors."""
    factors = np.concatenate([part.factors for part in sorted(parts, key=lambda part: part.rows.start)])
    factors[:, :rank] *= np.float32(scale)
    return factors


def _delivered(ratings: BlockedRatings, side: Side, fixed: WideFactors) -> Parts[tuple[int, _Delivery]]:
    """In the parts of a side's blocks the source rows that each needs."""
    blocks, sources = ratings.of(side), ratings.of(OTHER[side])
    send = partial(_send_rows, sources.ranges.bounds, fixed.rank, fixed.scale)
    out_blocks: Parts[Any] = blocks.out_blocks  # type: ignore[assignment]  # there are some where sources are wide
    return fixed.parts.beside(out_blocks).exchange(send, blocks.parts.n_parts)


def _send_rows(
    bounds: NDArray[np.int64], rank: int, scale: float, part: int, records: Iterable[Any]
) -> Iterator[tuple[int, _Delivery]]:
    """Executor: the rows of one block and the out-blocks in; the rows for each target out."""
    parts: list[FactorRows | BlockUpdate] = []
    wanted: list[OutBlock] = []
    for record in records:
        if isinstance(record, FactorRows | BlockUpdate):
            parts.append(record)
        else:
            wanted.append(record[1])
    if wanted:
        factors = gather_rows(parts, rank, scale)
        for block in wanted:
            yield block.target, _Delivery(part, factors[block.rows - int(bounds[part])])


def _update_part(
    sent: Sent[_Fixed], solver: BlockSolver, side: Side, _: int, records: Iterable[Any]
) -> Iterator[BlockUpdate | RowSums]:
    """Executor: one task."""
    source, gram, n_src, old_factors = sent.value
    deliveries: list[_Delivery] = []
    for record in records:
        if not isinstance(record, RatingBlock):  # deliveries come before the first block
            deliveries.append(record[1])
            continue
        if source is None:
            factors = np.concatenate([part.factors for part in sorted(deliveries, key=lambda part: part.origin)])
            source = solver.source(factors, gram, n_src)
        if record.is_part:
            yield solver.sum_part(side, record, source)
        else:
            yield solver.update_block(side, record, source, old_factors)


def _without_rows(_: int, updates: Iterable[BlockUpdate]) -> Iterator[BlockUpdate]:
    """Executor: the updates of a wide side for the driver, without the rows."""
    return (update._replace(factors=update.factors[:0], scales=update.scales.sum(keepdims=True)) for update in updates)
