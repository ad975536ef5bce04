"""Cuts an array of weights into contiguous parts of about the same sum."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


def cut_evenly(weights: NDArray[np.int64], n_parts: int) -> NDArray[np.int64]:
    """Bounds of n_parts contiguous parts; each cut is where the running sum is nearest to its even share.

    Parameters
    ----------
    weights : int64[n], all ≥ 0
    n_parts : ≥ 1; parts beyond the number of weights are empty

    Returns
    -------
    int64[n_parts + 1]    ascending, from 0 to n; no part exceeds the even share by more than the largest weight

    >>> cut_evenly(np.array([5, 1, 1, 1, 1, 1]), 2).tolist()
    [0, 1, 6]
    """
    running = np.concatenate([[0], np.cumsum(weights)])
    shares = running[-1] * np.arange(n_parts + 1) / n_parts
    above = np.searchsorted(running, shares).clip(1, max(len(weights), 1))
    above = np.minimum(above, len(weights))
    below = np.maximum(above - 1, 0)
    cuts = np.where(shares - running[below] <= running[above] - shares, below, above)
    cuts[0], cuts[-1] = 0, len(weights)
    bounds: NDArray[np.int64] = cuts.astype(np.int64)
    return bounds


class Ranges(NamedTuple):
    """Rows cut into blocks. A block is a range of rows; a row that is too large for one block has several blocks.

    Six rows, of which row 2 has most of the weight, in five blocks:

    >>> ranges = cut_rows(np.array([1, 1, 9, 1, 1, 1]), 5, least=4)
    >>> ranges.bounds.tolist(), ranges.split_rows.tolist(), ranges.n_parts.tolist()
    ([0, 2, 3, 3, 3, 6], [2], [3])
    """

    bounds: NDArray[np.int64]
    """int64[n_blocks + 1]: block p holds the rows bounds[p] .. bounds[p + 1] - 1, ascending; it may be empty."""
    split_rows: NDArray[np.int64]
    """int64[n_split], ascending: rows with several blocks. By the bounds, all of these but the first are empty."""
    n_parts: NDArray[np.int64]
    """int64[n_split], ≥ 2: number of blocks of each split row."""

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.bounds) - 1

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.bounds[-1])

    @property
    def used(self) -> NDArray[np.int64]:
        """The blocks that hold rows or a part of a row."""
        is_used = np.diff(self.bounds) > 0
        for block, n_parts in zip(self.blocks_of(self.split_rows), self.n_parts, strict=True):
            is_used[block : block + n_parts] = True
        return np.flatnonzero(is_used)

    def blocks_of(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """int64[n], the (first) block of each row."""
        return np.searchsorted(self.bounds, rows, side="right") - 1

    def rows_of(self, block: int) -> range:
        """The rows of a block; for a part of a split row, that row."""
        row = self._split_row_of(block)
        return range(int(self.bounds[block]), int(self.bounds[block + 1])) if row is None else range(row, row + 1)

    def is_part(self, block: int) -> bool:
        """Whether a block holds only some of the entries of a row."""
        return self._split_row_of(block) is not None

    def _split_row_of(self, block: int) -> int | None:
        for row, first, n_parts in zip(self.split_rows, self.blocks_of(self.split_rows), self.n_parts, strict=True):
            if first <= block < first + n_parts:
                return int(row)
        return None

    def blocks_of_entries(self, rows: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.int32]:
        """int32[n], the block of each entry (row, other) of a sparse matrix; in a split row it depends on the other."""
        block_of_row = np.repeat(np.arange(self.n_blocks, dtype=np.int32), np.diff(self.bounds))
        blocks: NDArray[np.int32] = block_of_row[rows]
        for row, n_parts in zip(self.split_rows.tolist(), self.n_parts.tolist(), strict=True):
            entries = np.flatnonzero(rows == row)
            blocks[entries] += others[entries] % np.int32(n_parts)
        return blocks


def whole_rows(bounds: NDArray[np.int64]) -> Ranges:
    """Blocks of whole rows."""
    return Ranges(bounds, np.empty(0, np.int64), np.empty(0, np.int64))


def cut_rows(weights: NDArray[np.int64], n_blocks: int, least: int) -> Ranges:
    """Cut rows into blocks of about the same weight, and split rows that weigh more than two even shares.

    Parameters
    ----------
    weights : int64[n], all ≥ 0
    n_blocks : ≥ 1; if rows are split, there may be a few more blocks
    least : a row of at most this weight is not split
    """
    share = max(1, -(-int(weights.sum()) // n_blocks))
    heavy = np.flatnonzero(weights > max(2 * share, least))
    if heavy.size == 0:
        return whole_rows(cut_evenly(weights, n_blocks))
    n_parts = -(-weights[heavy] // share)
    bounds, start = [np.zeros(1, np.int64)], 0
    for row, parts in zip([*heavy.tolist(), len(weights)], [*n_parts.tolist(), 0], strict=True):
        if start < row:
            light = weights[start:row]
            bounds.append(start + cut_evenly(light, max(1, round(int(light.sum()) / share)))[1:])
        bounds.append(np.full(parts, row + 1, np.int64))
        start = row + 1
    return Ranges(np.concatenate(bounds), heavy, n_parts)
