"""Prepare: ratings in, blocks out; chooses the engine. Read this module of `blocks` first."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql.types import DataType

from mfspark.blocks.blocked import BlockedRatings, SideBlocks
from mfspark.blocks.build import SideIds, build_blocks, layout_of
from mfspark.blocks.encode import encode_ratings
from mfspark.blocks.index import MAX_INDEX, IdIndex, RatingsIndex, index_ratings, whole_ids
from mfspark.blocks.records import OTHER, Side
from mfspark.blocks.wide_index import WideIndex, index_wide_side
from mfspark.engine.choice import MAX_LOCAL_FACTOR_BYTES, EngineChoice, read_as_wanted
from mfspark.engine.engine import Engine, Parts
from mfspark.engine.rdd import RddEngine

# Used if the number of blocks is 0: a block takes 30 to 80 MB.
_RATINGS_IN_BLOCK = 1 << 23


@dataclass(frozen=True)
class BlockConfig:
    """Partitioning and storage of the ratings."""

    n_user_blocks: int
    """0: two blocks per core, and at most _RATINGS_IN_BLOCK ratings per block."""
    n_item_blocks: int
    storage: StorageLevel = field(default_factory=lambda: StorageLevel.MEMORY_AND_DISK)
    engine: EngineChoice = "auto"
    n_columns: int = 1
    """Columns of the factor matrices."""
    max_side_bytes: int | None = None
    """A side with larger factors is wide; None: the largest value that the engine can send to each core."""
    are_rows_whole: bool = False
    """Whether each row must be in one block, even with very many ratings."""


@contextmanager
def blocked_ratings(ratings: DataFrame, config: BlockConfig) -> Iterator[BlockedRatings]:
    """Index and block the ratings, and keep the blocks until the context ends.

    Parameters
    ----------
    ratings : as for `encode_ratings`. Must be deterministic: they are read once or twice, and again if a part of the
        cache is lost

    Raises
    ------
    DataError        no ratings, unusable rows, or the ratings changed between two reads
    CapacityError    more distinct ids than an int32 index can number
    """
    started = time.monotonic()
    blocked = _block_on_driver(ratings, config, started)
    if blocked is None:
        large = RddEngine(ratings.sparkSession, config.storage).read(ratings)
        blocked = _block(large, replace(config, engine="rdd"), started)
        assert blocked is not None
    blocked = _with_id_types(blocked, {side: ratings.schema[f"{side}_id"].dataType for side in OTHER})
    try:
        yield blocked
    finally:
        blocked.release()


def _block_on_driver(ratings: DataFrame, config: BlockConfig, started: float) -> BlockedRatings | None:
    """The blocks in the driver's memory, without the encoded ratings; None if they should go to the executors."""
    small = read_as_wanted(ratings, config.engine)
    return None if small is None else _block(small, config, started)


def block_batches(batches: Parts[pa.RecordBatch], config: BlockConfig) -> BlockedRatings:
    """Like `blocked_ratings`, for ratings that are already read; the caller releases the blocks."""
    blocked = _block(batches, replace(config, engine=batches.engine.name), time.monotonic())
    assert blocked is not None
    return blocked


def _block(batches: Parts[pa.RecordBatch], config: BlockConfig, started: float) -> BlockedRatings | None:
    """The blocks; None if the engine is "auto" and the factors are too large for the driver."""
    engine = batches.engine
    max_bytes = engine.max_sent_bytes if config.max_side_bytes is None else config.max_side_bytes
    if engine.name == "local":
        max_bytes = MAX_LOCAL_FACTOR_BYTES if config.engine == "auto" else engine.max_sent_bytes
    with ExitStack() as kept:
        with engine.named("train: index"):
            encoded = encode_ratings(batches).keep()
            kept.callback(encoded.drop)
            index = index_ratings(encoded, min(MAX_INDEX, max_bytes // (4 * config.n_columns)))
            if engine.name == "local" and config.engine == "auto" and (index.users is None or index.items is None):
                return None
            n_user_blocks, n_item_blocks = _numbers_of_blocks(engine, config, index)
            users = index.users or index_wide_side(encoded, "user", n_user_blocks)
            kept.callback(_release_wide, users)
            items = index.items or index_wide_side(encoded, "item", n_item_blocks)
            kept.callback(_release_wide, items)
        indexed = time.monotonic()
        with engine.named("train: block"):
            ids = SideIds(users, items)
            layout = layout_of(index, ids, n_user_blocks, n_item_blocks, are_rows_whole=config.are_rows_whole)
            blocked = build_blocks(encoded, index, layout, ids)
        kept.pop_all()  # wide ids are released with the blocks
    encoded.drop()
    return replace(blocked, seconds={"index": indexed - started, "block": time.monotonic() - indexed})


def _with_id_types(blocked: BlockedRatings, id_types: dict[Side, DataType]) -> BlockedRatings:
    """Blocks that know the types of their ids: whole numbers where all ids of a floating-point column are such."""
    sides: dict[Side, SideBlocks] = {}
    for side, id_type in id_types.items():
        blocks = blocked.of(side)
        if isinstance(blocks.ids, IdIndex):
            ids, id_types[side] = whole_ids(blocks.ids.ids, id_type)
            blocks = replace(blocks, ids=blocks.ids._replace(ids=ids))
        sides[side] = blocks
    return replace(blocked, users=sides["user"], items=sides["item"], id_types=id_types)


def _release_wide(ids: IdIndex | WideIndex) -> None:
    if isinstance(ids, WideIndex):
        ids.release()


def _numbers_of_blocks(engine: Engine, config: BlockConfig, index: RatingsIndex) -> tuple[int, int]:
    n_auto = max(2 * engine.n_cores, index.n_training // _RATINGS_IN_BLOCK)
    # More blocks than rows would give empty tasks. Both sides get the same number, because SGD needs that.
    n_most = max(MAX_INDEX if side is None else side.n_ids for side in (index.users, index.items))
    return min(config.n_user_blocks or n_auto, n_most), min(config.n_item_blocks or n_auto, n_most)


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
