"""Index: raw ids of any type to dense indices 0 .. n-1, the same on every rerun of the same data."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import RDD

from mfspark.errors import CapacityError, DataError
from mfspark.kernels.balance import cut_evenly
from mfspark.stages.encode import MAX_RATING_VALUES, Encoded, EncodedRatings, require_usable

_MAX_INDEX = 2**31 - 1


class IdIndex(NamedTuple):
    """Dictionary of one side's ids, on the driver: the id at position i has index i."""

    ids: pa.Array
    """The input's type, distinct, ascending."""
    n_ratings: NDArray[np.int64]
    """int64[n_ids], training ratings of each id."""

    @property
    def n_ids(self) -> int:
        """Number of distinct ids."""
        return len(self.ids)

    def bounds(self, n_blocks: int) -> NDArray[np.int64]:
        """Cut the dense indices into n_blocks ranges with about the same number of ratings each.

        Returns
        -------
        int64[n_blocks + 1]    block p holds the indices bounds[p] .. bounds[p + 1] - 1; a block may be empty

        A range needs no table from row to block: n_blocks + 1 numbers tell every executor where a row belongs, and
        the factors of a block are one slice of the factor matrix.
        """
        return cut_evenly(self.n_ratings, n_blocks)


class RatingsIndex(NamedTuple):
    """What `block` needs to know of all ratings together."""

    users: IdIndex
    items: IdIndex
    rating_values: NDArray[Any] | None
    """[≤ 256], ascending: all ratings (with their weights) that occur; None where there are more values."""

    @property
    def n_training(self) -> int:
        """Number of ratings to train on."""
        return int(self.users.n_ratings.sum())


def index_ratings(ratings: RDD[EncodedRatings]) -> RatingsIndex:
    """Number the distinct user ids and item ids of the training ratings in ascending order.

    Raises
    ------
    DataError        there is nothing to train on, or some rows cannot be trained on
    CapacityError    more distinct ids than an int32 index can number

    Cost: one pass over the encoded ratings; the dictionaries of the partitions are merged as a tree. Runs on the
    driver, which ends up with each id once, as it will with each factor.
    """
    counted = ratings.map(_count).treeAggregate(None, _merge, _merge)
    if counted is None:
        raise DataError("No ratings available for training; expected at least one")
    require_usable(counted.n_unusable)
    users, items = _in_order(counted.users), _in_order(counted.items)
    index = RatingsIndex(users, items, counted.rating_values)
    if index.n_training == 0:
        raise DataError("No ratings available for training; expected at least one")
    return index


class _Counted(NamedTuple):
    """The distinct values of some ratings."""

    users: pa.Table
    """id, n_ratings int64."""
    items: pa.Table
    rating_values: NDArray[Any] | None
    n_unusable: Counter[str]


def _count(ratings: EncodedRatings) -> _Counted:
    """Executor: the distinct values of one part."""
    return _Counted(
        _count_ids(ratings.users, ratings.is_validation),
        _count_ids(ratings.items, ratings.is_validation),
        None if ratings.rating_values is None else np.unique(ratings.rating_values),
        Counter(ratings.n_unusable),
    )


def _count_ids(encoded: Encoded, is_validation: NDArray[np.bool_] | None) -> pa.Table:
    positions = encoded.positions if is_validation is None else encoded.positions[~is_validation]
    n_ratings = np.bincount(positions, minlength=len(encoded.values))
    table = pa.table({"id": encoded.values, "n_ratings": n_ratings})
    return table if is_validation is None else table.filter(pc.field("n_ratings") > 0)


def _merge(left: _Counted | None, right: _Counted | None) -> _Counted | None:
    if left is None or right is None:
        return left or right
    values = None
    if left.rating_values is not None and right.rating_values is not None:
        values = np.union1d(left.rating_values, right.rating_values)
    return _Counted(
        _merge_ids(left.users, right.users),
        _merge_ids(left.items, right.items),
        values if values is not None and values.size <= MAX_RATING_VALUES else None,
        left.n_unusable + right.n_unusable,
    )


def _merge_ids(left: pa.Table, right: pa.Table) -> pa.Table:
    summed = pa.concat_tables([left, right]).group_by("id", use_threads=False).aggregate([("n_ratings", "sum")])
    return summed.rename_columns({"n_ratings_sum": "n_ratings"})


def _in_order(counted: pa.Table) -> IdIndex:
    if counted.num_rows > _MAX_INDEX:
        raise CapacityError(f"{counted.num_rows} distinct ids in one column, but at most {_MAX_INDEX} can be indexed")
    ordered = counted.sort_by("id")
    return IdIndex(ordered["id"].combine_chunks(), ordered["n_ratings"].to_numpy())
