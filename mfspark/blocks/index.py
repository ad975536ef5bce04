"""Index: raw ids of any type to dense indices 0 .. n-1, the same on every rerun of the same data."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql.types import DataType, IntegerType, LongType

from mfspark.blocks.encode import MAX_RATING_VALUES, Encoded, EncodedRatings, require_usable
from mfspark.engine.engine import Parts
from mfspark.errors import DataError
from mfspark.kernels.balance import Ranges, cut_evenly, cut_rows, whole_rows

MAX_INDEX = 2**31 - 1

# A block takes 30 to 80 MB.
_RATINGS_IN_BLOCK = 1 << 23
# A row with fewer ratings is never split: this many take 3 ms at rank 64.
_LEAST_SPLIT = 1 << 16


class IdIndex(NamedTuple):
    """Ids of one side, on the driver: the id at position i has index i."""

    ids: pa.Array
    """Distinct ids of the input's type, ascending."""
    n_ratings: NDArray[np.int64]
    """int64[n_ids], training ratings of each id."""

    @property
    def n_ids(self) -> int:
        """Number of distinct ids."""
        return len(self.ids)

    def ranges(self, n_blocks: int, *, are_rows_whole: bool = False) -> Ranges:
        """Cut the dense indices into about n_blocks ranges with about the same number of ratings each.

        An id with more ratings than two ranges should hold gets several blocks, unless all rows must be whole.

        Ranges need no table from row to block: n_blocks + 1 numbers tell every executor the block of a row, and the
        factors of a block are one slice of the factor matrix.
        """
        if are_rows_whole:
            return whole_rows(cut_evenly(self.n_ratings, n_blocks))
        return cut_rows(self.n_ratings, n_blocks, _LEAST_SPLIT)

    def release(self) -> None:
        """Do nothing: Python frees the ids with the last reference."""


class RatingsIndex(NamedTuple):
    """The ids and rating values of all ratings."""

    users: IdIndex | None
    """None: more than max_ids ids."""
    items: IdIndex | None
    rating_values: NDArray[Any] | None
    """[≤ 256], ascending: the distinct ratings (with their weights); None if there are more than 256."""
    n_training: int
    """Number of ratings to train on."""

    def n_blocks(self, n_wanted: int, n_cores: int) -> int:
        """Number of blocks of a side; 0 wanted: two per core, more for many ratings.

        More blocks than rows would only give empty tasks. Both sides have the same limit: SGD needs equal numbers.
        """
        n_most = max(MAX_INDEX if side is None else side.n_ids for side in (self.users, self.items))
        return min(n_wanted or max(2 * n_cores, self.n_training // _RATINGS_IN_BLOCK), n_most)


def index_ratings(ratings: Parts[EncodedRatings], max_ids: int = MAX_INDEX) -> RatingsIndex:
    """Number the distinct user ids and item ids of the training ratings in ascending order.

    Counting of a side stops as soon as it has more than max_ids ids.

    Raises
    ------
    DataError        there is nothing to train on, or some rows cannot be trained on

    Cost: one pass over the encoded ratings; the dictionaries of the parts are merged as a tree. Runs on the driver,
    which gets each distinct id once.
    """
    counted = ratings.map(partial(_count_part, max_ids)).reduce(partial(_merge, max_ids))
    if counted is None:
        raise DataError("No ratings available for training; expected at least one")
    require_usable(counted.n_unusable)
    if counted.n_training == 0:
        raise DataError("No ratings available for training; expected at least one")
    users, items = (None if side is None else _in_order(side) for side in (counted.users, counted.items))
    return RatingsIndex(users, items, counted.rating_values, counted.n_training)


class _Counted(NamedTuple):
    """The distinct values of some ratings."""

    users: pa.Table | None
    """id, n_ratings int64; None: too many ids."""
    items: pa.Table | None
    rating_values: NDArray[Any] | None
    n_training: int
    n_unusable: Counter[str]


def _count_part(max_ids: int, _: int, records: Iterable[EncodedRatings]) -> Iterator[_Counted]:
    """Executor: the distinct values of each record."""
    return map(partial(_count, max_ids), records)


def _count(max_ids: int, ratings: EncodedRatings) -> _Counted:
    is_validation = ratings.is_validation
    return _Counted(
        _at_most(max_ids, _count_ids(ratings.users, is_validation)),
        _at_most(max_ids, _count_ids(ratings.items, is_validation)),
        None if ratings.rating_values is None else np.unique(ratings.rating_values),
        ratings.ratings.size if is_validation is None else int(np.count_nonzero(~is_validation)),
        Counter(ratings.n_unusable),
    )


def _count_ids(encoded: Encoded, is_validation: NDArray[np.bool_] | None) -> pa.Table:
    positions = encoded.positions if is_validation is None else encoded.positions[~is_validation]
    n_ratings = np.bincount(positions, minlength=len(encoded.values))
    table = pa.table({"id": encoded.values, "n_ratings": n_ratings})
    return table if is_validation is None else table.filter(pc.field("n_ratings") > 0)


def _at_most(max_ids: int, counted: pa.Table) -> pa.Table | None:
    return counted if counted.num_rows <= max_ids else None


def _merge(max_ids: int, left: _Counted, right: _Counted) -> _Counted:
    values = None
    if left.rating_values is not None and right.rating_values is not None:
        values = np.union1d(left.rating_values, right.rating_values)
    return _Counted(
        _merge_ids(max_ids, left.users, right.users),
        _merge_ids(max_ids, left.items, right.items),
        values if values is not None and values.size <= MAX_RATING_VALUES else None,
        left.n_training + right.n_training,
        left.n_unusable + right.n_unusable,
    )


def _merge_ids(max_ids: int, left: pa.Table | None, right: pa.Table | None) -> pa.Table | None:
    if left is None or right is None:
        return None
    summed = pa.concat_tables([left, right]).group_by("id", use_threads=False).aggregate([("n_ratings", "sum")])
    # Pickle would write the whole shared buffer for each chunk.
    return _at_most(max_ids, summed.rename_columns({"n_ratings_sum": "n_ratings"}).combine_chunks())


def _in_order(counted: pa.Table) -> IdIndex:
    ordered = counted.sort_by("id")
    return IdIndex(ordered["id"].combine_chunks(), ordered["n_ratings"].to_numpy())


def whole_ids(ids: pa.Array, id_type: DataType) -> tuple[pa.Array, DataType]:
    """Ids of a floating-point column as whole numbers where all are such, of 32 bits where these are enough.

    StringIndexer makes such columns; Spark's ALS gives ids of type int back for them.
    """
    if not pa.types.is_floating(ids.type):
        return ids, id_type
    try:
        whole = ids.cast(pa.int64())
    except pa.ArrowInvalid:  # a fraction, or beyond 64 bits
        return ids, id_type
    try:
        return whole.cast(pa.int32()), IntegerType()
    except pa.ArrowInvalid:
        return whole, LongType()
