"""In-blocks: the ratings of a range of destination rows in compressed sparse row (CSR) format."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.compiled import njit


class InBlock(NamedTuple):
    """Ratings of the destination rows first_row .. first_row + n_rows - 1, grouped by row.

    The entries of local row j are src[offsets[j]:offsets[j + 1]], ascending by source index, then by rating. Callers
    may rely on this order: with it, sums over a row do not depend on how the ratings were partitioned, and the same
    data gives the same bytes.

    Destination rows 2 to 4: row 2 has ratings of sources 0 and 7, row 3 has none, row 4 has two ratings of source 5:

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
    weights: NDArray[np.float32] | None = None
    """float32[n_ratings], how many times each rating counts; None: once."""

    @property
    def n_rows(self) -> int:
        """Number of destination rows, including rows without ratings."""
        return self.offsets.size - 1

    @property
    def rows(self) -> slice:
        """The slice of this block's rows in the factor matrix of its side."""
        return slice(self.first_row, self.first_row + self.n_rows)

    def row_sums(self, values: NDArray[np.float32] | None) -> NDArray[np.float64]:
        """float64[n_rows], the sum of a value float32[n_ratings] over each row's ratings; their number for None."""
        if values is None:
            return np.diff(self.offsets).astype(np.float64)
        running = np.zeros(values.size + 1)
        np.cumsum(values, dtype=np.float64, out=running[1:])
        sums: NDArray[np.float64] = np.diff(running[self.offsets])
        return sums


class PackedBlock(NamedTuple):
    """An in-block in the compact form in which it is stored and sent: 3 to 8 bytes per rating."""

    first_row: int
    row_sizes: NDArray[np.uint32]
    """uint32[n_rows], number of ratings of each row."""
    src: NDArray[np.uint16] | NDArray[np.int32]
    """uint16 where that is enough."""
    ratings: NDArray[np.uint8] | NDArray[Any]
    """uint8 codes; without a table, the values: float32 ratings, or uint64 pairs of `pack_weights`."""
    rating_values: NDArray[Any] | None
    """[≤ 256], ascending: the value that each code stands for."""

    def part(self, first: int, last: int) -> "PackedBlock":
        """The block of the local rows first .. last - 1, without a copy. Cost: one pass over the row sizes."""
        start = int(self.row_sizes[:first].sum())
        entries = slice(start, start + int(self.row_sizes[first:last].sum()))
        return self._replace(
            first_row=self.first_row + first,
            row_sizes=self.row_sizes[first:last],
            src=self.src[entries],
            ratings=self.ratings[entries],
        )

    def unpack(self) -> InBlock:
        """Unpack the in-block. Cost: one pass over the ratings."""
        offsets = np.zeros(self.row_sizes.size + 1, np.int64)
        np.cumsum(self.row_sizes, out=offsets[1:])
        values = self.ratings if self.rating_values is None else self.rating_values[self.ratings]
        ratings, weights = unpack_weights(values)
        return InBlock(self.first_row, offsets, self.src.astype(np.int32), ratings, weights)


class Pieces(NamedTuple):
    """Ratings grouped by destination block: block p has the entries offsets[p]:offsets[p + 1]."""

    offsets: NDArray[np.int64]
    dst: NDArray[np.int32]
    src: NDArray[np.int32]
    ratings: NDArray[Any]


def pack_weights(ratings: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Pack each rating and its weight into one value, so that they are sorted, sent and stored together."""
    return np.stack([ratings, weights], axis=1).astype(np.float32).view(np.uint64).ravel()


def unpack_weights(values: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Unpack values of `pack_weights` into ratings and weights; float32 values are ratings without weights."""
    if values.dtype == np.uint64:
        pairs = values.view(np.float32).reshape(-1, 2)
        return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    return values.astype(np.float32), None


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

    Cost: two counting sorts, O(n + n_rows + max(src)) time and 24·n bytes of scratch memory. Runs on executors.
    """
    return InBlock(first_row, *_group_by_row(first_row, n_rows, dst, src, ratings))


def build_packed_block(
    first_row: int,
    n_rows: int,
    n_src: int,
    dst: NDArray[np.int32],
    src: NDArray[np.int32],
    ratings: NDArray[Any],
    rating_values: NDArray[Any] | None,
) -> PackedBlock:
    """Group unordered ratings by destination row, as `build_in_block`, and pack them for storage.

    Parameters
    ----------
    n_src : number of source rows in all blocks
    ratings : float32[n]; or, with rating_values, uint8[n]: positions in that ascending table of at most 256 values
    """
    offsets, src, ratings = _group_by_row(first_row, n_rows, dst, src, ratings)
    row_sizes = np.diff(offsets).astype(np.uint32)
    return PackedBlock(first_row, row_sizes, src.astype(index_type(n_src)), ratings, rating_values)


def index_type(n: int) -> type[Any]:
    """The type for indices below n: uint16 if they fit, else int32."""
    return np.uint16 if n <= 1 << 16 else np.int32


def group_by_block(
    blocks: NDArray[np.int32],
    n_blocks: int,
    dst: NDArray[np.int32],
    src: NDArray[np.int32],
    ratings: NDArray[Any],
) -> Pieces:
    """Group ratings by block, keeping their order within a block.

    Parameters
    ----------
    blocks : int32[n], 0 .. n_blocks - 1, the block of each rating

    Cost: one counting sort, O(n + n_blocks) time. Runs on executors.
    """
    return Pieces(*_counting_sort(blocks, n_blocks, dst, src, ratings))


def _group_by_row(
    first_row: int, n_rows: int, dst: NDArray[np.int32], src: NDArray[np.int32], ratings: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
    # A stable sort by source and then a stable sort by row leave the entries of each row in ascending order of source.
    n_src = int(src.max()) + 1 if src.size else 0
    _, dst, src, ratings = _counting_sort(src, n_src, dst, src, ratings)
    offsets, _, src, ratings = _counting_sort(dst - np.int32(first_row), n_rows, dst, src, ratings)
    _sort_repeated_pairs(offsets, src, ratings)
    return offsets, src, ratings


@njit(cache=True, nogil=True)
def _counting_sort(keys, n_keys, dst, src, ratings):  # type: ignore[no-untyped-def]
    """Sort ratings by key (stable); return the start of each key's ratings, and the sorted arrays."""
    offsets = np.zeros(n_keys + 1, np.int64)
    for key in keys:
        offsets[key + 1] += 1
    for key in range(n_keys):
        offsets[key + 1] += offsets[key]
    next_position = offsets[:-1].copy()
    sorted_dst, sorted_src, sorted_ratings = np.empty_like(dst), np.empty_like(src), np.empty_like(ratings)
    for entry in range(keys.size):
        position = next_position[keys[entry]]
        next_position[keys[entry]] = position + 1
        sorted_dst[position] = dst[entry]
        sorted_src[position] = src[entry]
        sorted_ratings[position] = ratings[entry]
    return offsets, sorted_dst, sorted_src, sorted_ratings


@njit(cache=True, nogil=True)
def _sort_repeated_pairs(offsets, src, ratings):  # type: ignore[no-untyped-def]
    """Sort the ratings of each (row, source) pair by value."""
    for row in range(offsets.size - 1):
        start = offsets[row]
        while start < offsets[row + 1]:
            end = start + 1
            while end < offsets[row + 1] and src[end] == src[start]:
                end += 1
            if end - start > 1:
                ratings[start:end].sort()
            start = end
