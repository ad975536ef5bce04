"""Recommend: the best N items for every user, as a table operation around one GEMM kernel."""

import zlib
from collections.abc import Iterable, Iterator
from functools import partial, reduce
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

from mfspark.engine.arrow import gather_batches
from mfspark.engine.choice import executors_engine, has_all_cores, is_large, local_engine, on_driver, read_small
from mfspark.engine.engine import Engine, Parts, Sent, as_they_are
from mfspark.engine.local import LocalEngine
from mfspark.engine.rdd import RddParts
from mfspark.kernels.csr import index_type
from mfspark.kernels.topn import top_n
from mfspark.serving.ids import with_ids_in
from mfspark.training.factor_tables import FactorTable, factor_matrix, factor_rows

# With no more multiply-adds than this, the driver's threads do the work even if the executors have more cores: some
# seconds on two cores.
_MAX_LOCAL_PRODUCTS = 10**11
# Most bytes of all lists together that the driver holds.
_MAX_LOCAL_BYTES = 200 << 20
# One task holds the factors and seen items of this many users.
_USERS_A_TASK = 50_000
# One task groups this many seen pairs by user at a time; larger buffers make the JVM's heap grow.
_PAIRS_IN_MEMORY = 1 << 20
# Most bytes of lists in one batch. Arrow's offsets and the JVM's arrays end at 2 GiB; a task holds the lists of one
# batch a few times over. Each batch costs a copy of the item factors, the time of about 60 users.
_BYTES_IN_BATCH = 128 << 20


class Seen(NamedTuple):
    """Positions of the items to leave out, CSR by user, ascending."""

    offsets: NDArray[np.int64]
    """int64[n_users + 1]."""
    items: NDArray[np.int32]


class Candidates(NamedTuple):
    """The items; sent to all tasks."""

    ids: pa.Array
    """Raw ids, in the order of the rows of `factors`."""
    factors: NDArray[np.float32]
    """float32[n_items, rank]; behind them a column of their biases, if they have any."""
    global_mean: float | None
    has_biases: bool


class Users(NamedTuple):
    """Some of the users of one task."""

    ids: pa.Array
    factors: NDArray[np.float32]
    """float32[n_users, rank]; behind them a column of their biases, if they have any."""


class SeenPart(NamedTuple):
    """The seen items of one task's users in one part of the pairs."""

    user_ids: pa.Array
    counts: NDArray[np.int64]
    """int64[n_users], number of items of each user."""
    items: NDArray[np.uint16] | NDArray[np.int32]
    """Positions among the candidates, by user; uint16 if that is enough."""


def recommend(
    users: FactorTable, items: FactorTable, global_mean: float | None, n: int, seen: DataFrame | None = None
) -> DataFrame:
    """The n items with the highest prediction for each user: dot product of the factors, plus biases and the mean.

    Parameters
    ----------
    global_mean : part of the predictions if the tables have biases
    n : n ≥ 1
    seen : id, item_id; pairs to leave out; ids without factors are ignored

    Returns
    -------
    DataFrame    id, recommendations array<struct<id, rating float>>, best first; exactly min(n, unseen)
                 entries; equal scores in ascending order of the item id. A user who has seen all items gets an
                 empty array.

    Cost: n_users·n_items·rank multiply-adds; sends the item factors to all tasks (n_items·rank·4 bytes); with `seen`
    one exchange of the user factors and of 2 or 4 bytes per pair. Small tables run on the driver's threads at once;
    larger ones on the executors when the result is read. Items that are too many for one broadcast go in tiles, each
    with all of this cost; then one exchange of the lists of all tiles merges them.
    """
    # Otherwise every worker would compile the kernel, because all need it at the same time.
    Thread(target=compile_top_n, daemon=True).start()
    id_type, item_id_type = users.id_type, items.id_type
    recommendation = StructType([StructField("id", item_id_type), StructField("rating", FloatType())])
    schema = StructType([StructField("id", id_type), StructField("recommendations", ArrayType(recommendation))])
    pairs = None
    if seen is not None:
        pairs = with_ids_in(items, with_ids_in(users, seen, "id"), "item_id")
    tiles = _tiles(items, global_mean)
    lists = [_recommend_among(users, candidates, n, pairs, schema) for candidates in tiles]
    return lists[0] if len(lists) == 1 else _merged(lists, n)


def _recommend_among(
    users: FactorTable, candidates: "Candidates", n: int, pairs: DataFrame | None, schema: StructType
) -> DataFrame:
    """The lists of all users, of items that fit one broadcast."""
    engine, read_pairs = _engine_for(users, candidates, n, pairs)
    sent = engine.send(candidates)
    if read_pairs is None:
        return engine.to_table(users.on(engine).map(partial(_recommend_batches, sent, n)), schema)
    n_tasks = max(2 * engine.n_cores, -(-_count(users) // _USERS_A_TASK))
    # Parts of the user table and of the seen pairs go to the task of their users, as arrays.
    served = users.on(engine).exchange(partial(_cut_users, n_tasks), n_tasks)
    known = _seen_by_task(read_pairs, engine, sent, n_tasks)
    return engine.to_table(served.beside(known).map(partial(_recommend_task, sent, n)), schema)


def _tiles(items: FactorTable, global_mean: float | None) -> "Iterator[Candidates]":
    """The items, in as many tiles as it takes to send them; the driver holds one at a time."""
    if items.n_local_rows is not None:
        yield Candidates(*items.collect(), global_mean, items.has_biases)
        return
    max_bytes = items.batches.engine.max_sent_bytes
    kept = items.batches.map(as_they_are).keep()  # else each tile would read the table again
    try:
        for parts, n_bytes in _ranges_of_parts(kept.run(_bytes_of_part), max_bytes):
            ids, factors = items.with_batches(kept).collect(parts)
            n_rows = max(1, len(ids) // max(1, -(-n_bytes // max_bytes)))
            for start in range(0, max(1, len(ids)), n_rows):
                # Copies, because pickle would write the whole buffers of a slice.
                some = ids.take(pa.array(np.arange(start, min(start + n_rows, len(ids)))))
                yield Candidates(some, factors[start : start + n_rows], global_mean, items.has_biases)
    finally:
        kept.drop()


def _ranges_of_parts(sizes: list[int], max_bytes: int) -> Iterator[tuple[list[int], int]]:
    """Parts that have rows, together at most max_bytes or alone; and their bytes. One empty range if no part has."""
    parts: list[int] = []
    n_bytes = 0
    for part, size in enumerate(sizes):
        if parts and size and n_bytes + size > max_bytes:
            yield parts, n_bytes
            parts, n_bytes = [], 0
        if size:
            parts.append(part)
            n_bytes += size
    yield parts, n_bytes


def _bytes_of_part(_: int, batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    """Executor: the bytes of the rows of a part."""
    yield sum(batch.nbytes for batch in batches if batch.num_rows)


def _merged(lists: list[DataFrame], n: int) -> DataFrame:
    """The n best of all lists of each user."""
    best_first = (
        "(x, y) -> CASE WHEN x.rating > y.rating THEN -1 WHEN x.rating < y.rating THEN 1 "
        "WHEN x.id < y.id THEN -1 WHEN x.id > y.id THEN 1 ELSE 0 END"
    )
    of_all_tiles = "flatten(collect_list(recommendations))"
    best = F.expr(f"slice(array_sort({of_all_tiles}, {best_first}), 1, {n})").alias("recommendations")
    return reduce(DataFrame.unionByName, lists).groupBy("id").agg(best)


def _engine_for(
    users: FactorTable, candidates: "Candidates", n: int, seen: DataFrame | None
) -> "tuple[Engine, Parts[pa.RecordBatch] | None]":
    """The local engine if it holds all lists and is about as fast as the executors, else these; and the seen pairs.

    Many pairs are on the executors even if the local engine is chosen: there they are grouped by user.
    """
    spark, n_users = users.table.sparkSession, users.n_local_rows
    has_all = has_all_cores(spark)
    is_local = (
        n_users is not None
        and n_users * _bytes_of_list(candidates, n) <= _MAX_LOCAL_BYTES
        and (has_all or n_users * candidates.factors.size <= _MAX_LOCAL_PRODUCTS)
    )
    few = read_small(seen) if is_local and seen is not None else None
    if is_local and seen is not None and few is None:
        is_local = has_all and not is_large(seen)
    pairs = few if few is not None or seen is None else executors_engine(spark).read(seen)
    return local_engine(spark) if is_local else executors_engine(spark), pairs


def _seen_by_task(
    pairs: Parts[pa.RecordBatch], engine: Engine, candidates: Sent[Candidates], n_tasks: int
) -> Parts[tuple[int, SeenPart]]:
    """The seen items of the users of each task, on this engine; few bytes a pair."""
    if isinstance(engine, LocalEngine) and isinstance(pairs, RddParts):
        sent = pairs.engine.send(candidates.value)
        cut = on_driver(pairs.engine.spark, pairs.map(partial(_cut_seen, sent, n_tasks)))
        sent.drop()
        return cut.exchange(as_they_are, n_tasks)
    return pairs.exchange(partial(_cut_seen, candidates, n_tasks), n_tasks)


def recommend_popular(users: DataFrame, counted: DataFrame, n: int, seen: DataFrame | None = None) -> DataFrame:
    """The n items with the most ratings, for each user.

    Parameters
    ----------
    users : id
    counted : id, count; recommends only these items
    seen : as for `recommend`

    Returns
    -------
    DataFrame    id, recommendations array<struct<id, rating float>>, most popular first, then in ascending order of the
                 id; the ratings are null, because there is no prediction

    Cost: as `recommend` at rank 1: an item's factor is its number of ratings, a user's factor is 1.
    """
    rows, targets = (
        FactorTable.of(table.select("id", F.array(factor.cast("float")).alias("features")))
        for table, factor in ((users, F.lit(1)), (counted, F.col("count")))
    )
    best = recommend(rows, targets, 0.0, n, seen)
    without_rating = F.transform(
        "recommendations", lambda entry: F.struct(entry["id"].alias("id"), F.lit(None).cast("float").alias("rating"))
    )
    return best.select("id", without_rating.alias("recommendations"))


def similar(rows: FactorTable, all_rows: FactorTable, n: int, *, is_cosine: bool) -> DataFrame:
    """The n nearest other rows in all_rows for each row, by cosine or dot product of the factors.

    Returns
    -------
    DataFrame    as for `recommend`, with similarities for ratings; a row of zeros has the cosine 0 with every other

    Cost: as `recommend`.
    """
    to_compare = partial(_without_bias, is_cosine)
    rows, others = (
        FactorTable(batches=table.batches.map(to_compare), schema=_without_bias_field(table))
        for table in (rows, all_rows)
    )
    itself = rows.table.select("id", F.col("id").alias("item_id"))
    return recommend(rows, others, 0.0, n, itself)


def _without_bias_field(table: FactorTable) -> StructType:
    return StructType([field for field in table.table.schema if field.name != "bias"])


def _without_bias(is_unit: bool, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Executor: batches of factors in; the same without biases out, scaled to length 1 if is_unit."""
    return (_comparable(is_unit, rows) for rows in batches)


def _comparable(is_unit: bool, rows: pa.RecordBatch) -> pa.RecordBatch:
    factors = factor_matrix(rows.select(["id", "features"]))
    if is_unit:
        lengths = np.linalg.norm(factors, axis=1, keepdims=True)
        factors = np.divide(factors, lengths, out=np.zeros_like(factors), where=lengths > 0)
    return factor_rows(rows["id"], factors)


def compile_top_n() -> None:
    """Compile the kernel, on one user and item, into the cache that executors on this machine read."""
    one = np.ones((1, 1), np.float32)
    top_n(one, one, 1, np.zeros(2, np.int64), np.empty(0, np.int32))


def _count(rows: FactorTable) -> int:
    return sum(rows.batches.run(_sizes))


def _sizes(_: int, batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    """Executor: the number of rows of each batch."""
    return (batch.num_rows for batch in batches)


def _cut_users(n_tasks: int, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Users]]:
    """Executor: id, features in; users out, each with its task."""
    for users in batches:
        tasks = _tasks_of(users["id"], n_tasks)
        order = np.argsort(tasks, kind="stable")
        ids, factors = users["id"].take(order), factor_matrix(users)[order]
        for task, rows in _runs(tasks[order]):
            yield task, Users(ids[rows], factors[rows])


def _cut_seen(
    candidates: Sent[Candidates], n_tasks: int, _: int, batches: Iterable[pa.RecordBatch]
) -> Iterator[tuple[int, SeenPart]]:
    """Executor: id, item_id in; seen items out, each with the task of its user."""
    item_ids = candidates.value.ids
    for pairs in gather_batches(batches, _PAIRS_IN_MEMORY):
        items = pc.index_in(pairs["item_id"], value_set=item_ids.cast(pairs["item_id"].type))
        known = pa.table([pairs["id"], items], names=["id", "item"]).drop_null()
        ids = known["id"].combine_chunks().dictionary_encode()
        tasks = _tasks_of(ids.dictionary, n_tasks)
        order = np.argsort(tasks, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        seen = _group_by_user(place[ids.indices], known["item"].to_numpy(), order.size)
        user_ids, positions = ids.dictionary.take(order), seen.items.astype(index_type(len(item_ids)))
        for task, rows in _runs(tasks[order]):
            entries = slice(seen.offsets[rows.start], seen.offsets[rows.stop])
            yield task, SeenPart(user_ids[rows], np.diff(seen.offsets)[rows], positions[entries])


def _tasks_of(ids: pa.Array, n_tasks: int) -> NDArray[np.int64]:
    """The task that serves each user."""
    # A checksum of the text is the same in every process, for every type of id.
    texts = ids if pa.types.is_large_binary(ids.type) else ids.cast(pa.large_string()).cast(pa.large_binary())
    return np.array([zlib.crc32(text) % n_tasks for text in texts.to_pylist()], np.int64)


def _runs(ascending: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Each value with its slice."""
    values, starts, counts = np.unique(ascending, return_index=True, return_counts=True)
    for value, start, count in zip(values.tolist(), starts.tolist(), counts.tolist(), strict=True):
        yield value, slice(start, start + count)


def _group_by_user(users: NDArray[np.int64], items: NDArray[np.int32], n_users: int) -> Seen:
    # Sorts one packed integer per pair, which needs no kernel: 12 ns per pair.
    packed = users << 32 | items
    packed.sort()
    offsets = np.zeros(n_users + 1, np.int64)
    np.cumsum(np.bincount(packed >> 32, minlength=n_users), out=offsets[1:])
    return Seen(offsets, packed.astype(np.int32))


def _recommend_batches(
    candidates: Sent[Candidates], n: int, _: int, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Executor: batches of users in; their recommendations out."""
    for batch in batches:
        nothing = Seen(np.zeros(batch.num_rows + 1, np.int64), np.empty(0, np.int32))
        yield from _recommend(candidates.value, n, Users(batch["id"], factor_matrix(batch)), nothing)


def _recommend_task(
    candidates: Sent[Candidates], n: int, _: int, arrived: Iterable[tuple[int, Users | SeenPart]]
) -> Iterator[pa.RecordBatch]:
    """Executor: all parts of some users in; their recommendations out."""
    served: list[Users] = []
    seen: list[SeenPart] = []
    for _task, part in arrived:
        if isinstance(part, Users):
            served.append(part)
        else:
            seen.append(part)
    if served:
        ids, factors = zip(*served, strict=True)
        users = Users(pa.concat_arrays(ids), np.concatenate(factors))
        yield from _recommend(candidates.value, n, users, _join_seen(seen, users.ids))


def _join_seen(parts: list[SeenPart], user_ids: pa.Array) -> Seen:
    users: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    items: list[NDArray[Any]] = [np.empty(0, np.int32)]
    for part in parts:
        row = pc.index_in(part.user_ids, value_set=user_ids).fill_null(-1).to_numpy()
        of_user = np.repeat(row, part.counts)
        is_known = of_user >= 0
        users.append(of_user[is_known])
        items.append(part.items[is_known])
    return _group_by_user(np.concatenate(users), np.concatenate(items, dtype=np.int32), len(user_ids))


def _recommend(candidates: Candidates, n: int, users: Users, seen: Seen) -> Iterator[pa.RecordBatch]:
    """The lists of these users, in batches of at most _BYTES_IN_BATCH; a user whose list is larger has one alone."""
    n_rows = max(1, int(_BYTES_IN_BATCH / _bytes_of_list(candidates, n)))
    for start in range(0, len(users.ids), n_rows):
        rows = slice(start, start + n_rows)
        some = Users(users.ids[rows], users.factors[rows])
        yield from _halves(_best(candidates, n, some, Seen(seen.offsets[start : start + n_rows + 1], seen.items)))


def _bytes_of_list(candidates: Candidates, n: int) -> float:
    """Bytes of one user's list, if its item ids have the mean length: ids, scores and an offset."""
    n_items, bytes_of_ids = max(1, len(candidates.ids)), int(candidates.ids.nbytes)
    return 4 + min(n, n_items) * (4 + bytes_of_ids / n_items)


def _halves(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The same rows within the bound, where the best items have ids longer than the mean."""
    if batch.nbytes <= _BYTES_IN_BATCH or batch.num_rows == 1:
        yield batch
    else:
        half = batch.num_rows // 2
        yield from _halves(batch[:half])
        yield from _halves(batch[half:])


def _best(candidates: Candidates, n: int, users: Users, seen: Seen) -> pa.RecordBatch:
    """Id, recommendations: the lists of all these users."""
    factors, common = users.factors, None
    if candidates.has_biases:
        # A factor of 1 adds the items' biases. Terms that all items of a user share are added to the best items only.
        factors = factors.copy()
        factors[:, -1] = 1
        common = np.float32(candidates.global_mean) + users.factors[:, -1]
    best = top_n(factors, candidates.factors, n, seen.offsets, seen.items)
    scores = best.scores if common is None else best.scores + np.repeat(common, np.diff(best.offsets))
    recommendations = pa.StructArray.from_arrays(
        [candidates.ids.take(pa.array(best.items)), pa.array(scores)], names=["id", "rating"]
    )
    lists = pa.ListArray.from_arrays(pa.array(best.offsets), recommendations)
    return pa.RecordBatch.from_arrays([users.ids, lists], names=["id", "recommendations"])
