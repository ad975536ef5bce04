"""Index: raw ids of any type to dense indices 0 .. n-1, the same on every rerun of the same data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.errors import CapacityError
from mfspark.kernels.balance import cut_evenly

_MAX_INDEX = 2**31 - 1
# monotonically_increasing_id() puts the partition number above this bit and counts rows below it.
_ROW_BITS = 33
# Bounds of blocks are exact up to this many rows; beyond it, to 1/65,536 of the rows.
_MAX_BINS = 65_536


@dataclass(frozen=True)
class IdIndex:
    """Dictionary of one side's ids."""

    table: DataFrame
    """id (the input's type), index int, n_ratings long; in ascending order of id and of index."""
    n_ids: int
    cached: DataFrame
    """What `table` is computed from, kept until `unpersist`."""

    def unpersist(self) -> None:
        """Release the cached dictionary."""
        self.cached.unpersist()


def index_ids(ratings: DataFrame, id_column: str) -> IdIndex:
    """Number the distinct ids of one column in ascending order of the id.

    The dictionary is distributed: a range-partitioned sort, of which the driver sees the partition sizes
    only.

    Parameters
    ----------
    ratings : one row a rating; the column has no nulls

    Raises
    ------
    CapacityError    more distinct ids than an int32 index can number
    """
    counts = ratings.groupBy(F.col(id_column).alias("id")).agg(F.count("*").alias("n_ratings"))
    # The number of partitions is given because adaptive execution leaves cached plans alone: orderBy would
    # make a task for each of spark.sql.shuffle.partitions, mostly empty.
    n_partitions = ratings.sparkSession.sparkContext.defaultParallelism
    in_order = counts.repartitionByRange(n_partitions, "id").sortWithinPartitions("id")
    cached = in_order.select(
        "id",
        "n_ratings",
        F.spark_partition_id().alias("partition"),
        F.monotonically_increasing_id().bitwiseAND(F.lit((1 << _ROW_BITS) - 1)).alias("row"),
    ).persist()
    try:
        sizes = {row["partition"]: row["count"] for row in cached.groupBy("partition").count().collect()}
        n_ids = sum(sizes.values())
        if n_ids > _MAX_INDEX:
            raise CapacityError(f"{n_ids} distinct ids in one column, but at most {_MAX_INDEX} can be indexed")
    except BaseException:
        cached.unpersist()
        raise
    index = (F.col("row") + _first_index(sizes)).cast("int").alias("index")
    return IdIndex(cached.select("id", index, "n_ratings"), n_ids, cached)


def balanced_bounds(index: IdIndex, n_blocks: int) -> NDArray[np.int64]:
    """Cut the dense indices into n_blocks ranges with about the same number of ratings each.

    Returns
    -------
    int64[n_blocks + 1]    block p holds the indices bounds[p] .. bounds[p + 1] - 1; a block may be empty

    A range needs no table from row to block: n_blocks + 1 numbers tell every executor where a row belongs,
    and the factors of a block are one slice of the factor matrix. Cost: one aggregation to at most 65,536
    numbers, collected to the driver.
    """
    width = -(-index.n_ids // _MAX_BINS)
    bins = index.table.groupBy(F.floor(F.col("index") / width).alias("bin")).agg(F.sum("n_ratings").alias("n_ratings"))
    n_ratings = bins.orderBy("bin").toArrow()["n_ratings"].to_numpy()
    return np.minimum(cut_evenly(n_ratings, n_blocks) * width, index.n_ids)


def to_indices(ratings: DataFrame, users: IdIndex, items: IdIndex) -> DataFrame:
    """Replace user_id and item_id by the dense user and item; ratings of unknown ids fall out."""
    user = users.table.select(F.col("id").alias("user_id"), F.col("index").alias("user"))
    item = items.table.select(F.col("id").alias("item_id"), F.col("index").alias("item"))
    known = ratings.join(user, on="user_id", how="inner").join(item, on="item_id", how="inner")
    return known.select("user", "item", *[name for name in ratings.columns if name not in ("user_id", "item_id")])


def _first_index(sizes: dict[int, int]) -> Column:
    """Number of ids in the partitions before this row's."""
    n_partitions = max(sizes, default=0) + 1
    counts = [sizes.get(partition, 0) for partition in range(n_partitions)]
    first_indices = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return F.get(F.array(*[F.lit(int(first)) for first in first_indices]), F.col("partition"))
