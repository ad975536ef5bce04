"""In-blocks: the ratings of a range of destination rows, in compressed sparse rows (CSR)."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class InBlock(NamedTuple):
    """Ratings of the destination rows first_row .. first_row + n_rows - 1, grouped by row.

    The entries of local row j are src[offsets[j]:offsets[j + 1]], ascending by source index, then by
    rating. The order is part of the contract: sums over a row then do not depend on how the ratings were
    partitioned, and the same data gives the same bytes.

    Destination rows 2..4; row 2 rated sources 0 and 7, row 3 none, row 4 source 5 twice:

    >>> block = build_in_block(
    ...     first_row=2, n_rows=3,
    ...     dst=np.array([4, 2, 4, 2], np.int32), src=np.array([5, 7, 5, 0], np.int32),
    ...     ratings=np.array([3.0, 1.0, 2.0, 4.0], np.float32))
    >>> block.offsets.tolist(), block.src.tolist(), block.ratings.tolist()
    ([0, 2, 2, 4], [0, 7, 5, 5], [4.0, 1.0, 2.0, 3.0])
    """

    first_row: int
    offsets: NDArray[np.int64]
    """int64[n_rows + 1], from 0 to the number of ratings."""
    src: NDArray[np.int32]
    """int32[n_ratings], index of the source row of each rating."""
    ratings: NDArray[np.float32]
    """float32[n_ratings]."""

    @property
    def n_rows(self) -> int:
        """Number of destination rows, those without ratings included."""
        return self.offsets.size - 1

    @property
    def rows(self) -> slice:
        """Place of this block's rows in the factor matrix of its side."""
        return slice(self.first_row, self.first_row + self.n_rows)


class Pieces(NamedTuple):
    """Ratings grouped by destination block: those of block p stand at offsets[p]:offsets[p + 1]."""

    offsets: NDArray[np.int64]
    dst: NDArray[np.int32]
    src: NDArray[np.int32]
    ratings: NDArray[np.float32]


def build_in_block(
    first_row: int,
    n_rows: int,
    dst: NDArray[np.int32],
    src: NDArray[np.int32],
    ratings: NDArray[np.float32],
) -> InBlock:
    """Group unordered ratings by destination row.

    Parameters
    ----------
    first_row, n_rows : range of destination rows of the block
    dst, src, ratings : int32[n], int32[n], float32[n], in any order; dst lies in the range

    Cost: two counting sorts, O(n + n_rows + max(src)) time and 20 n bytes of scratch. Runs on executors.
    """
    n_src = int(src.max()) + 1 if src.size else 0
    offsets, src, ratings = _sort_into_rows(first_row, n_rows, n_src, dst, src, ratings)
    return InBlock(first_row, offsets, src, ratings)


def group_by_block(
    bounds: NDArray[np.int64],
    dst: NDArray[np.int32],
    src: NDArray[np.int32],
    ratings: NDArray[np.float32],
) -> Pieces:
    """Group ratings by the block of their destination row; block p holds rows bounds[p] .. bounds[p + 1] - 1.

    Keeps the order of arrival within a block. Cost: O(n log n_blocks) time. Runs on executors.
    """
    return Pieces(*_group_by_block(bounds, dst, src, ratings))


@njit(cache=True, nogil=True)
def _sort_into_rows(first_row, n_rows, n_src, dst, src, ratings):  # type: ignore[no-untyped-def]
    # Least significant key first: a stable sort by source, then a stable sort by row, leaves each row's
    # entries ascending by source.
    _, by_src = _counting_sort(src, 0, n_src)
    offsets, order = _counting_sort(dst[by_src], first_row, n_rows)
    sorted_src = np.empty_like(src)
    sorted_ratings = np.empty_like(ratings)
    for position in range(order.size):
        entry = by_src[order[position]]
        sorted_src[position] = src[entry]
        sorted_ratings[position] = ratings[entry]
    for row in range(n_rows):
        _sort_repeated_pairs(offsets[row], offsets[row + 1], sorted_src, sorted_ratings)
    return offsets, sorted_src, sorted_ratings


@njit(cache=True, nogil=True)
def _counting_sort(keys, first_key, n_keys):  # type: ignore[no-untyped-def]
    """Where each key's entries start, and the stable order that sorts the keys."""
    offsets = np.zeros(n_keys + 1, np.int64)
    for key in keys:
        offsets[key - first_key + 1] += 1
    for key in range(n_keys):
        offsets[key + 1] += offsets[key]
    next_position = offsets[:-1].copy()
    order = np.empty(keys.size, np.int64)
    for entry in range(keys.size):
        key = keys[entry] - first_key
        order[next_position[key]] = entry
        next_position[key] += 1
    return offsets, order


@njit(cache=True, nogil=True)
def _sort_repeated_pairs(start, end, src, ratings):  # type: ignore[no-untyped-def]
    """Order the ratings of one (row, source) pair by value: insertion sort, the runs are short."""
    for position in range(start + 1, end):
        rating = ratings[position]
        hole = position
        while hole > start and src[hole - 1] == src[position] and ratings[hole - 1] > rating:
            ratings[hole] = ratings[hole - 1]
            hole -= 1
        ratings[hole] = rating


@njit(cache=True, nogil=True)
def _group_by_block(bounds, dst, src, ratings):  # type: ignore[no-untyped-def]
    n_blocks = bounds.size - 1
    blocks = np.empty(dst.size, np.int32)
    for entry in range(dst.size):
        blocks[entry] = np.searchsorted(bounds, dst[entry], side="right") - 1
    offsets, order = _counting_sort(blocks, 0, n_blocks)
    return offsets, dst[order], src[order], ratings[order]
