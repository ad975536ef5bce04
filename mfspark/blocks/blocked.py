"""The blocked ratings: each rating is in one user block and one item block."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from pyspark.sql.types import DataType

from mfspark.blocks.index import IdIndex
from mfspark.blocks.records import OutBlock, RatingBlock, Side
from mfspark.blocks.wide_index import WideIndex
from mfspark.engine.arrow import shown
from mfspark.engine.engine import Engine, Parts, Sent
from mfspark.errors import DataError
from mfspark.kernels.balance import Ranges
from mfspark.kernels.csr import PackedBlock
from mfspark.kernels.digest import total


@dataclass(frozen=True)
class SideBlocks:
    """The ratings grouped by the rows of one side."""

    parts: Parts[RatingBlock]
    """Part first + p holds block p in several small records; a block without rows is empty."""
    first: int
    ranges: Ranges
    """Block p solves the users, or items, of its range."""
    ids: IdIndex | WideIndex
    """The raw id of each row."""
    out_blocks: Parts[tuple[int, OutBlock]] | None = None
    """Set if the other side is wide: part p has (p, the rows of its block p that these blocks need)."""

    @property
    def is_wide(self) -> bool:
        """Whether the factors of this side are too large for one place."""
        return isinstance(self.ids, WideIndex)

    @property
    def used(self) -> list[int]:
        """Parts that are not empty."""
        return [self.first + int(block) for block in self.ranges.used]

    def id_of(self, row: int) -> str:
        """The raw id of a row, as text."""
        if isinstance(self.ids, IdIndex):
            return shown(self.ids.ids, row)
        block = int(self.ranges.blocks_of(np.array([row]))[0])
        (ids,) = self.ids.ids.collect([block])
        return shown(ids, row - int(self.ranges.bounds[block]))

    def n_ratings_of(self, row: int) -> int | None:
        """Number of training ratings of a row; None for a wide side."""
        return int(self.ids.n_ratings[row]) if isinstance(self.ids, IdIndex) else None


@dataclass(frozen=True)
class BlockedRatings:
    """Ratings for any number of trainings, one after the other or at the same time."""

    engine: Engine
    users: SideBlocks
    items: SideBlocks
    n_ratings: int
    """Number of training ratings."""
    mean_rating: float
    """Mean of the training ratings, by weight."""
    layout: Sent[Any]
    """Tasks need it to build a lost block again."""
    digest: int = 0
    """`digest_of` all training ratings."""
    id_types: dict[Side, DataType] = field(default_factory=dict)
    """Types of the columns of ids; empty if the ratings did not come from a DataFrame."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of index and block."""
    _kept: list[Parts[Any]] = field(default_factory=list)
    _cells: dict[int, Parts[PackedBlock]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, side: Side) -> SideBlocks:
        """The blocks that solve this side."""
        return self.users if side == "user" else self.items

    def cells(self, shift: int) -> Parts[PackedBlock]:
        """The cells of a stratum: part p holds the training ratings of user block p and item block p + shift.

        They are cut where the user blocks are, and kept like these.
        """
        with self._lock:
            if shift not in self._cells:
                cut = partial(_cut_cell, shift, self.users.ranges.n_blocks, self.items.ranges)
                self._cells[shift] = self.users.parts.map(cut).keep()
            return self._cells[shift]

    def require_same(self, digests: Iterable[int]) -> None:
        """Raise DataError if blocks with these digests have other ratings than when they were first built."""
        if total(digests) != self.digest:
            raise changed_ratings()

    @contextmanager
    def of_one_training(self) -> "Iterator[BlockedRatings]":
        """These ratings for one of several trainings at the same time: what it keeps is dropped at its end."""
        own = replace(self, _kept=[])
        try:
            yield own
        finally:
            own.drop_all_but([])

    def keep(self, factors: Parts[Any]) -> None:
        """Hold factors of a wide side until they are dropped."""
        self._kept.append(factors)

    def drop_all_but(self, wanted: list[Parts[Any]]) -> None:
        """Drop all kept factors except these."""
        for factors in self._kept:
            if factors not in wanted:
                factors.drop()
        self._kept[:] = [factors for factors in self._kept if factors in wanted]

    def release(self) -> None:
        """Drop the kept blocks and the values that they were made with."""
        self.users.parts.drop()
        if self.items.parts is not self.users.parts:
            self.items.parts.drop()
        for blocks in (self.users, self.items):
            if blocks.out_blocks is not None:
                blocks.out_blocks.drop()
            blocks.ids.release()
        for cells in self._cells.values():
            cells.drop()
        self._cells.clear()
        if not (self.users.is_wide or self.items.is_wide):
            # Rebuilding a block needs the layout. The factor table of a wide side may still need it: then Spark's
            # cleaner drops the layout with the table.
            self.layout.drop()


def changed_ratings() -> DataError:
    """The error for ratings that were read again and were not the same."""
    return DataError(
        "the ratings changed while they were used: Spark lost some of them, read them again and found others, as from "
        "rand(), sample() or limit(), or from a table that is being written; write the ratings to a table, or "
        "checkpoint them, before training"
    )


def _cut_cell(
    shift: int, n_user_blocks: int, items: Ranges, part: int, blocks: Iterable[RatingBlock]
) -> Iterator[PackedBlock]:
    """Executor: a user block in; its ratings of one item block out."""
    sources = None
    for block in blocks:
        if part >= n_user_blocks:
            continue  # an item block
        sources = block.sources if block.sources is not None else sources
        train = block.train
        src = train.src if sources is None else sources[train.src]
        chosen = items.blocks_of(src) == (part + shift) % items.n_blocks
        rows = np.repeat(np.arange(train.row_sizes.size), train.row_sizes)
        sizes = np.bincount(rows[chosen], minlength=train.row_sizes.size).astype(np.uint32)
        if chosen.any():
            yield train._replace(row_sizes=sizes, src=src[chosen], ratings=train.ratings[chosen])
