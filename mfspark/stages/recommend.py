"""Recommend: the best N items of every user, as a DataFrame operation around one GEMM kernel."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

from mfspark.kernels.topn import top_n


class Candidates(NamedTuple):
    """What every executor needs to know of the items, broadcast once."""

    ids: pa.Array
    """Raw ids, in the order of the rows of `factors`."""
    factors: NDArray[np.float32]
    """float32[n_items, rank]."""


def recommend(users: DataFrame, items: DataFrame, n: int, seen: DataFrame | None = None) -> DataFrame:
    """Best n items of each user by the dot product of their factors.

    Parameters
    ----------
    users, items : id, features array<float>
    n : n ≥ 1
    seen : id, item_id; pairs to leave out; ids that have no factors are ignored

    Returns
    -------
    DataFrame    id, recommendations array<struct<id, rating float>>, best first; exactly min(n, unseen)
                 entries; equal scores in ascending order of the item id. A user who has seen everything
                 gets an empty array.

    Cost: n_users·n_items·rank multiply-adds; item factors are collected and broadcast (n_items·rank·4
    bytes); with `seen` one shuffle of the pairs.
    """
    candidates = _collect_candidates(items)
    # Spark's cleaner removes the broadcast when the returned DataFrame is no longer referenced.
    broadcast = items.sparkSession.sparkContext.broadcast(candidates)
    recommendation = StructType([StructField("id", items.schema["id"].dataType), StructField("rating", FloatType())])
    schema = StructType([users.schema["id"], StructField("recommendations", ArrayType(recommendation))])
    with_seen = _with_seen(users, candidates.ids, seen)
    return with_seen.mapInArrow(partial(_recommend_batches, broadcast, n), schema)


def _collect_candidates(items: DataFrame) -> Candidates:
    ordered = items.select("id", "features").orderBy("id").toArrow()
    return Candidates(ordered["id"].combine_chunks(), _matrix(ordered["features"].combine_chunks()))


def _with_seen(users: DataFrame, item_ids: pa.Array, seen: DataFrame | None) -> DataFrame:
    """Add to each user the positions in item_ids of the items to leave out, as an array<int>."""
    nothing = F.array().cast("array<int>")
    if seen is None:
        return users.select("id", "features", nothing.alias("seen"))
    positions = users.sparkSession.createDataFrame(
        pa.table({"item_id": item_ids, "position": np.arange(len(item_ids), dtype=np.int32)})
    )
    seen_positions = (
        seen.join(positions, on="item_id", how="inner").groupBy("id").agg(F.collect_list("position").alias("seen"))
    )
    with_seen = users.join(seen_positions, on="id", how="left")
    return with_seen.select("id", "features", F.coalesce("seen", nothing).alias("seen"))


def _recommend_batches(
    candidates: "Broadcast[Candidates]", n: int, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Executor: a batch of users in, their recommendations out."""
    item_ids, item_factors = candidates.value
    for batch in batches:
        seen = batch["seen"]
        best = top_n(_matrix(batch["features"]), item_factors, n, seen.offsets.to_numpy(), seen.values.to_numpy())
        recommendations = pa.StructArray.from_arrays(
            [item_ids.take(pa.array(best.items)), pa.array(best.scores)], names=["id", "rating"]
        )
        yield pa.RecordBatch.from_arrays(
            [batch["id"], pa.ListArray.from_arrays(pa.array(best.offsets), recommendations)],
            names=["id", "recommendations"],
        )


def _matrix(features: pa.ListArray) -> NDArray[np.float32]:
    """View a column of equally long vectors as a matrix, one vector a row."""
    values: NDArray[np.float32] = features.flatten().to_numpy()
    return values.reshape(len(features), -1) if len(features) else values.reshape(0, 0)
