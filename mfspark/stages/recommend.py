"""Recommend: the best N items of every user, as a DataFrame operation around one GEMM kernel."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, DataType, FloatType, StructField, StructType

from mfspark.kernels.csr import group_by_block, index_type
from mfspark.kernels.topn import top_n
from mfspark.stages.arrow import gather_batches, read_batches, to_table

# Users whose factors and seen items one task holds at a time.
_USERS_A_TASK = 50_000
# Seen pairs that one task groups by user at a time.
_PAIRS_IN_MEMORY = 1 << 22


class Seen(NamedTuple):
    """Positions of the items to leave out, CSR by user, in any order."""

    offsets: NDArray[np.int64]
    """int64[n_users + 1]."""
    items: NDArray[np.int32]


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
    bytes); with `seen` one shuffle of the user factors and of 2 or 4 bytes a pair.
    """
    candidates = _collect_candidates(items)
    # Spark's cleaner removes the broadcast when the returned DataFrame is no longer referenced.
    broadcast = items.sparkSession.sparkContext.broadcast(candidates)
    recommendation = StructType([StructField("id", items.schema["id"].dataType), StructField("rating", FloatType())])
    schema = StructType([users.schema["id"], StructField("recommendations", ArrayType(recommendation))])
    if seen is None:
        return users.select("id", "features").mapInArrow(partial(_recommend_batches, broadcast, n), schema)
    rows = _beside_seen(users, seen, items.schema["id"].dataType, broadcast)
    return rows.mapInArrow(partial(_recommend_partition, broadcast, n), schema)


def _collect_candidates(items: DataFrame) -> Candidates:
    ordered = items.select("id", "features").toArrow().sort_by("id")
    return Candidates(ordered["id"].combine_chunks(), _matrix(ordered["features"].combine_chunks()))


def _beside_seen(
    users: DataFrame, seen: DataFrame, item_id_type: DataType, candidates: "Broadcast[Candidates]"
) -> DataFrame:
    """Bring each user's factors and seen items into one partition: id, features, seen; one of the two is null.

    `seen` holds positions among the candidates, as bytes. A user has a row for each part of the input that has seen
    some of the user's pairs, not one for each pair: the shuffle moves arrays.
    """
    id_type = users.schema["id"].dataType
    pairs = seen.select(F.col("id").cast(id_type), F.col("item_id").cast(item_id_type))
    seen_schema = StructType([StructField("id", id_type), StructField("seen", BinaryType())])
    by_user = read_batches(pairs).mapPartitions(partial(_group_by_user, candidates))
    positions = to_table(users.sparkSession, by_user, seen_schema)
    rows = users.select("id", "features").unionByName(positions, allowMissingColumns=True)
    n_tasks = max(2 * users.sparkSession.sparkContext.defaultParallelism, -(-users.count() // _USERS_A_TASK))
    return rows.repartition(n_tasks, "id")


def _group_by_user(candidates: "Broadcast[Candidates]", batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Executor: seen pairs in, the positions of each user's items out."""
    item_ids = candidates.value.ids
    for pairs in gather_batches(batches, _PAIRS_IN_MEMORY):
        items = pc.index_in(pairs["item_id"], value_set=item_ids.cast(pairs["item_id"].type))
        known = pa.table({"user": pairs["id"], "item": items}).drop_null().combine_chunks()
        users = known["user"].combine_chunks().dictionary_encode()
        of_user, items = users.indices.to_numpy(), known["item"].to_numpy()
        grouped = group_by_block(of_user, len(users.dictionary), of_user, items, np.zeros(items.size, np.uint8))
        positions = grouped.src.astype(index_type(len(item_ids)))
        buffers = [None, pa.py_buffer(grouped.offsets * positions.itemsize), pa.py_buffer(positions)]
        seen = pa.Array.from_buffers(pa.large_binary(), len(users.dictionary), buffers)
        yield pa.RecordBatch.from_arrays([users.dictionary, seen], names=["id", "seen"])


def _recommend_batches(
    candidates: "Broadcast[Candidates]", n: int, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Executor: a batch of users in, their recommendations out."""
    for users in batches:
        nothing = Seen(np.zeros(users.num_rows + 1, np.int64), np.empty(0, np.int32))
        yield _recommend(candidates.value, n, users["id"], users["features"], nothing)


def _recommend_partition(
    candidates: "Broadcast[Candidates]", n: int, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Executor: all rows of some users in, their recommendations out."""
    arrived = list(batches)
    if not arrived:
        return
    rows = pa.Table.from_batches(arrived)
    is_user = rows["features"].is_valid()
    users = rows.filter(is_user).combine_chunks()
    ids = users["id"].combine_chunks()
    seen = _seen_by_user(rows.filter(pc.invert(is_user)), ids, len(candidates.value.ids))
    yield _recommend(candidates.value, n, ids, users["features"].combine_chunks(), seen)


def _seen_by_user(rows: pa.Table, user_ids: pa.Array, n_items: int) -> Seen:
    """Join the parts of each user, rows of (id, seen)."""
    of_user = pc.index_in(rows["id"], value_set=user_ids)
    parts = pa.table({"user": of_user, "seen": rows["seen"].cast(pa.large_binary())}).drop_null().sort_by("user")
    positions = parts["seen"].combine_chunks()
    n_bytes = np.bincount(parts["user"], weights=pc.binary_length(positions), minlength=len(user_ids))
    items = np.frombuffer(b"".join(parts["seen"].to_pylist()), index_type(n_items))
    offsets = np.concatenate([[0], np.cumsum(n_bytes)]).astype(np.int64) // items.itemsize
    return Seen(offsets, items.astype(np.int32))


def _recommend(candidates: Candidates, n: int, ids: pa.Array, features: pa.ListArray, seen: Seen) -> pa.RecordBatch:
    best = top_n(_matrix(features), candidates.factors, n, seen.offsets, seen.items)
    recommendations = pa.StructArray.from_arrays(
        [candidates.ids.take(pa.array(best.items)), pa.array(best.scores)], names=["id", "rating"]
    )
    lists = pa.ListArray.from_arrays(pa.array(best.offsets), recommendations)
    return pa.RecordBatch.from_arrays([ids, lists], names=["id", "recommendations"])


def _matrix(features: pa.ListArray) -> NDArray[np.float32]:
    """View a column of equally long vectors as a matrix, one vector a row."""
    values: NDArray[np.float32] = features.flatten().to_numpy()
    return values.reshape(len(features), -1) if len(features) else values.reshape(0, 0)
