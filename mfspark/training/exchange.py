"""Exchange: bring the source factors to the blocks, and collect the solved rows.

A side is narrow or wide. The factors of a narrow side are one matrix on the driver, sent to all tasks that need them. A
wide side is too large for that: each of its blocks keeps its own factors, and sends to each block of the other side the
rows that this block needs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
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
    """Source factors; sent unpadded, padded for the kernels on first use."""

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
    """The fixed side, as a block needs it."""

    factors: PaddedFactors
    """float32[n_src, n_columns]."""
    biases: NDArray[np.float32] | None
    """float32[n_src], if there are biases."""
    gram: NDArray[np.float32] | None
    """float32[padded_rank(n_columns)²], Σ y yᵀ over all sources, if needed."""
    n_rows: int
    """Number of rows of the side; if it is wide, `factors` has only some of them."""


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
    """Dense index of a row whose normal equation has no unique solution; -1 if there is none."""
    overflowed_row: int
    """Dense index of a row with infinite or NaN factors; -1 if there is none."""
    scales: NDArray[np.float64]
    """float64[n_rows], n: the number of times that λ counts for each row."""
    penalty: float
    """λ Σ n |x|² over the block's rows."""
    bias_penalty: float
    """The same for their biases."""
    squared_error: float
    """Σ w (r − prediction)² over the block's training ratings; with implicit feedback over all pairs of its rows."""
    weight: float
    """Σ w over the block's training ratings."""
    validation_squared_error: float
    validation_weight: float
    gram: NDArray[np.float64] | None
    """float64[n_columns, n_columns], Σ x xᵀ over the block's rows, if needed."""
    digest: int = 0
    """Of the record of the block."""


class RowSums(NamedTuple):
    """Sums over part of the ratings of a row that has too many for one block."""

    row: int
    """Dense index."""
    train: Quadratic
    """The error of these training ratings as a function of the row's factors."""
    validation: Quadratic
    n_counted: float
    """Number of these ratings that λ counts, by weight."""
    weight: float
    validation_weight: float
    digest: int = 0
    """As in `BlockUpdate`."""

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
    """Part p: the rows of block p, kept like the blocks of ratings."""
    n_rows: int
    rank: int
    """Columns that `scale` applies to; a bias column after them is not scaled."""
    scale: float = 1.0
    """Multiply the rows by this."""
    is_only_copy: bool = False
    """Whether Spark cannot compute the rows again."""

    def __len__(self) -> int:
        return self.n_rows


class BlockSolver(Protocol):
    """The work of a task; must pickle."""

    @property
    def rank(self) -> int:
        """Number of latent factors."""

    @property
    def starts_from_old(self) -> bool:
        """Whether `update_block` needs the factors that it replaces."""

    def source(self, factors: Factors, gram: NDArray[np.float64] | None, n_rows: int | None = None) -> Source:
        """The fixed side, as a block needs it."""

    def update_block(self, side: Side, block: RatingBlock, source: Source, old: Factors | None) -> BlockUpdate:
        """Solve one block of whole rows, which replace the old ones."""

    def sum_part(self, side: Side, block: RatingBlock, source: Source) -> RowSums:
        """Sums over some of the ratings of one row."""


class _Fixed(NamedTuple):
    """A half-iteration sends this value to all tasks."""

    source: Source | None
    """None for a wide side: each block gets its own sources."""
    gram: NDArray[np.float64] | None
    """For a wide side, if needed."""
    n_src: int
    old: Factors | None
    """The rows that the solved ones replace, if needed; None for a wide side: each block has its own."""
    old_scale: float
    """For the old rows of a wide side."""


class _Delivery(NamedTuple):
    """Source rows sent from a block to a block of the other side."""

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
    """Solve every block of one side, with the other side fixed.

    Parameters
    ----------
    fixed, gram : factors of the other side and, if needed, their Gram matrix
    old : factors that the solved rows replace

    Returns
    -------
    updates    in the order of their rows; without factors and scales if the side is wide
    factors    of a wide side, computed and kept; None for a narrow side

    Raises
    ------
    DataError    a block was lost and built again from other ratings

    Cost, narrow sources: n_src·rank·4 bytes to every Python worker. Wide sources: one shuffle of rank·4 bytes for each
    pair of a row and a block that needs it. Narrow destinations: n_dst·rank·4 bytes back to the driver, and to every
    worker for a solver that starts from the old factors. One task per block, on Spark in one job.
    """
    blocks, engine = ratings.of(side), ratings.engine
    records: Parts[Any] = blocks.parts
    replaced: Factors | None = None
    old_scale = 1.0
    if solver.starts_from_old:
        if isinstance(old, WideFactors):
            records, old_scale = old.parts.beside(records), old.scale
        else:
            replaced = old
    if isinstance(fixed, WideFactors):
        sent = engine.send(_Fixed(None, gram, fixed.n_rows, replaced, old_scale))
        records = delivered(ratings, side, fixed).beside(records)
    else:
        sent = engine.send(_Fixed(solver.source(fixed, gram), None, len(fixed), replaced, old_scale))
    update = partial(_update_part, sent, solver, side, blocks.ranges.bounds)
    if not isinstance(old, WideFactors):
        try:
            updates = records.run(update, blocks.used)
        finally:
            sent.drop()
        ratings.require_same(update.digest for update in updates)
        return updates, None
    # Rows of a wide side are whole. If they are made from factors on the executors, these will be dropped, and the rows
    # cannot be solved again.
    is_only_copy = isinstance(fixed, WideFactors) or solver.starts_from_old
    solved: Parts[Any] = records.map(update).keep(is_only_copy=is_only_copy).dropped_with(sent)
    factors = WideFactors(solved, old.n_rows, old.rank, is_only_copy=is_only_copy)
    ratings.keep(factors.parts)
    updates = solved.run(_without_rows)
    ratings.require_same(update.digest for update in updates)
    return updates, factors


def gather_rows(parts: Iterable[FactorRows | BlockUpdate], rank: int, scale: float) -> Factors:
    """The rows of one block of a wide side as one matrix, with the scale of `WideFactors`. Runs on executors."""
    factors = np.concatenate([part.factors for part in sorted(parts, key=lambda part: part.rows.start)])
    factors[:, :rank] *= np.float32(scale)
    return factors


def delivered(ratings: BlockedRatings, side: Side, fixed: WideFactors) -> Parts[tuple[int, _Delivery]]:
    """The source rows that each block of a side needs, in the parts of these blocks."""
    blocks, sources = ratings.of(side), ratings.of(OTHER[side])
    send = partial(_send_rows, sources.ranges.bounds, fixed.rank, fixed.scale)
    out_blocks: Parts[Any] = blocks.out_blocks  # type: ignore[assignment]  # set if sources are wide
    return fixed.parts.beside(out_blocks).exchange(send, blocks.parts.n_parts)


def _send_rows(
    bounds: NDArray[np.int64], rank: int, scale: float, part: int, records: Iterable[Any]
) -> Iterator[tuple[int, _Delivery]]:
    """Executor: the rows and out-blocks of one block in; the rows for each target out."""
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
    sent: Sent[_Fixed],
    solver: BlockSolver,
    side: Side,
    bounds: NDArray[np.int64],
    part: int,
    records: Iterable[Any],
) -> Iterator[BlockUpdate | RowSums]:
    """Executor: one task."""
    source, gram, n_src, old, old_scale = sent.value
    own, sources, blocks = arrived(solver.rank, old_scale, records)
    first_row = 0 if own is None else int(bounds[part])
    if own is not None:
        old = own
    for record in blocks:
        if source is None:
            source = solver.source(sources, gram, n_src)  # type: ignore[arg-type]  # each block has ratings
        if record.is_part:
            yield solver.sum_part(side, record, source)._replace(digest=record.digest)
        else:
            start = record.train.first_row - first_row
            rows = slice(start, start + record.train.row_sizes.size)
            update = solver.update_block(side, record, source, None if old is None else old[rows])
            yield update._replace(digest=record.digest)


def arrived(
    rank: int, scale: float, records: Iterable[Any]
) -> tuple[Factors | None, Factors | None, Iterator[RatingBlock]]:
    """Executor: what came before the first block of ratings: the block's own rows, and its sources; then the blocks.

    Own rows are there on a wide side, sources if the other side is wide.
    """
    own: list[FactorRows | BlockUpdate] = []
    deliveries: list[_Delivery] = []
    records = iter(records)
    first: list[RatingBlock] = []
    for record in records:
        if isinstance(record, RatingBlock):
            first.append(record)
            break
        if isinstance(record, FactorRows | BlockUpdate):
            own.append(record)
        else:
            deliveries.append(record[1])
    sources = None
    if deliveries:
        sources = np.concatenate([part.factors for part in sorted(deliveries, key=lambda part: part.origin)])
        wanted = first[0].sources if first else None
        if wanted is not None and wanted.size != len(sources):
            # The block was built again from other ratings. Its digest will tell; until then any rows will do.
            sources = np.zeros((wanted.size, sources.shape[1]), np.float32)
    return gather_rows(own, rank, scale) if own else None, sources, chain(first, records)


def _without_rows(_: int, updates: Iterable[BlockUpdate]) -> Iterator[BlockUpdate]:
    """Executor: the updates of a wide side for the driver, without the rows."""
    return (update._replace(factors=update.factors[:0], scales=update.scales.sum(keepdims=True)) for update in updates)
