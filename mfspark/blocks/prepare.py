"""Prepare: ratings in, blocks out; chooses the engine. Read this module of `blocks` first."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.build import SideIds, build_blocks, layout_of
from mfspark.blocks.encode import encode_ratings
from mfspark.blocks.index import MAX_INDEX, RatingsIndex, index_ratings
from mfspark.blocks.records import OTHER
from mfspark.blocks.wide_index import index_wide_side
from mfspark.engine.choice import EngineChoice, has_all_cores, on_driver, read_where_it_fits
from mfspark.engine.engine import Parts
from mfspark.engine.local import LocalParts
from mfspark.engine.rdd import RddEngine

# Largest factors of a side for which "auto" chooses the local engine.
_MAX_LOCAL_FACTOR_BYTES = 1 << 29
# Most ratings for which it does so: each takes 32 bytes while the blocks are built.
_MAX_LOCAL_RATINGS = 1 << 26


@dataclass(frozen=True)
class BlockConfig:
    """Partitioning and storage of the ratings."""

    n_user_blocks: int
    """0: two blocks per core, and at most 8 Mi ratings per block."""
    n_item_blocks: int
    storage: StorageLevel = field(default_factory=lambda: StorageLevel.MEMORY_AND_DISK)
    engine: EngineChoice = "auto"
    n_columns: int = 1
    """Columns of the factor matrices."""
    max_side_bytes: int | None = None
    """A side with larger factors is wide; None: the largest value that the engine can send to each core. The
    local engine has no wide sides: its threads share the driver's memory."""
    are_rows_whole: bool = False
    """Whether each row must be in one block, even with very many ratings."""

    @property
    def max_local_ids(self) -> int:
        """Most ids of a side for which "auto" chooses the local engine."""
        return _MAX_LOCAL_FACTOR_BYTES // (4 * self.n_columns)


@contextmanager
def blocked_ratings(ratings: DataFrame | Parts[pa.RecordBatch], config: BlockConfig) -> Iterator[BlockedRatings]:
    """Index and block the ratings, and keep the blocks until the context ends.

    Parameters
    ----------
    ratings : as for `encode_ratings`; a DataFrame, or batches that are already read. Must be deterministic: they are
        read once or twice, and again if a part of the cache is lost

    Raises
    ------
    DataError        no ratings, unusable rows, or the ratings changed between two reads
    CapacityError    more distinct ids than an int32 index can number
    """
    started = time.monotonic()
    if isinstance(ratings, DataFrame):
        fits = partial(_factors_fit, config)
        batches = read_where_it_fits(ratings, config.engine, config.storage, fits)
        id_types = {side: ratings.schema[f"{side}_id"].dataType for side in OTHER}
    else:
        batches, id_types = ratings, {}
    engine, max_bytes = batches.engine, config.max_side_bytes
    if max_bytes is None or engine.name == "local":
        max_bytes = engine.max_sent_bytes
    with ExitStack() as failed:
        with engine.named("train: index"):
            encoded = encode_ratings(batches).keep()
            failed.callback(encoded.drop)
            index = index_ratings(encoded, min(MAX_INDEX, max_bytes // (4 * config.n_columns)))
            if config.engine == "auto" and isinstance(engine, RddEngine) and _trains_on_driver(engine, index, config):
                encoded = on_driver(engine.spark, encoded)
                failed.close()  # drops the copy of the executors
            n_user_blocks = index.n_blocks(config.n_user_blocks, engine.n_cores)
            n_item_blocks = index.n_blocks(config.n_item_blocks, engine.n_cores)
            users = index.users or index_wide_side(encoded, "user", n_user_blocks)
            failed.callback(users.release)
            items = index.items or index_wide_side(encoded, "item", n_item_blocks)
            failed.callback(items.release)
        indexed = time.monotonic()
        with engine.named("train: block"):
            ids = SideIds(users, items)
            layout = layout_of(index, ids, n_user_blocks, n_item_blocks, are_rows_whole=config.are_rows_whole)
            blocked = build_blocks(encoded, index, layout, ids)
        failed.pop_all()  # wide ids are released with the blocks
    encoded.drop()
    seconds = {"index": indexed - started, "block": time.monotonic() - indexed}
    blocked = replace(blocked, id_types=id_types, seconds=seconds)
    try:
        yield blocked
    finally:
        blocked.release()


def _trains_on_driver(engine: RddEngine, index: RatingsIndex, config: BlockConfig) -> bool:
    """Whether the driver holds many ratings and trains on them as fast as the executors."""
    is_held = all(side is not None and side.n_ids <= config.max_local_ids for side in (index.users, index.items))
    return is_held and index.n_training <= _MAX_LOCAL_RATINGS and has_all_cores(engine.spark)


def _factors_fit(config: BlockConfig, ratings: LocalParts[pa.RecordBatch]) -> bool:
    """Whether the driver holds the factors of few ratings. Counts the ids only if there are more ratings than that."""
    if sum(batch.num_rows for batch in ratings.records) <= config.max_local_ids:
        return True
    ids = (pa.chunked_array([batch[f"{side}_id"] for batch in ratings.records]) for side in OTHER)
    return all(pc.count_distinct(of_side).as_py() <= config.max_local_ids for of_side in ids)


class SharedBlocks:
    """Blocks shared by several trainings: the first makes them, the last, or one that fails, releases them.

    n_trainings : number of trainings; None if unknown: then only `release` releases the blocks

    Thread-safe. Runs on the driver.
    """

    def __init__(self, ratings: DataFrame, config: BlockConfig, n_trainings: int | None) -> None:
        self._ratings, self._config = ratings, config
        self._n_to_come, self._n_within = n_trainings, 0
        self._lock = threading.Lock()
        self._held: ExitStack | None = None
        self._blocked: BlockedRatings | None = None

    @contextmanager
    def borrow(self) -> Iterator[BlockedRatings]:
        """The blocks, for one training."""
        with self._lock:
            if self._held is None or self._blocked is None:
                held = ExitStack()
                self._blocked = held.enter_context(blocked_ratings(self._ratings, self._config))
                self._held = held
            self._n_within += 1
            if self._n_to_come is not None:
                self._n_to_come -= 1
            blocked = self._blocked
        is_done = False
        try:
            yield blocked
            is_done = True
        finally:
            with self._lock:
                self._n_within -= 1
                is_over = self._n_to_come is not None and (self._n_to_come <= 0 or not is_done)
                if self._n_within == 0 and is_over:
                    self._drop()

    def release(self) -> None:
        """Drop the blocks, if there are any; no training may be running."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._held is not None:
            self._held.close()
        self._held = self._blocked = None
