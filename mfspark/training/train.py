"""Train: ratings in, factor tables out. The one way to a model, for the estimator and the jobs alike."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import SparkContext, StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import DataType

from mfspark.blocks.build import Wide, block_ratings, layout_of
from mfspark.blocks.encode import encode_ratings
from mfspark.blocks.index import MAX_INDEX, RatingsIndex, index_ratings
from mfspark.blocks.types import BlockedRatings, Side
from mfspark.blocks.wide_index import index_wide_side
from mfspark.engine.arrow import shown
from mfspark.engine.jobs import named_jobs
from mfspark.errors import CapacityError, NumericalError, SchemaError
from mfspark.training.exchange import Factors, WideFactors
from mfspark.training.factor_tables import FactorTable, factor_table, wide_factor_table
from mfspark.training.fingerprint import fingerprint
from mfspark.training.loop import (
    Checkpoints,
    IterationRecord,
    KnownFactors,
    LoopConfig,
    Solver,
    Trained,
    UnsolvedRowError,
    run_loop,
)
from mfspark.training.objective import Implicit

logger = logging.getLogger(__name__)

# Where the number of blocks is ours to choose: 30 to 80 MB of a block.
_RATINGS_IN_BLOCK = 1 << 23
# Factors may take this share of an executor's memory, divided by the Python workers that each hold a copy.
_BROADCAST_SHARE = 0.5


@dataclass(frozen=True)
class BlockConfig:
    """How the ratings are partitioned and kept."""

    n_user_blocks: int
    """0: two tasks a core, and no more than _RATINGS_IN_BLOCK ratings a task."""
    n_item_blocks: int
    storage: StorageLevel
    max_ids: int = MAX_INDEX
    """A side of more ids is a wide one."""
    are_rows_whole: bool = False
    """Whether a row must be in one block, however many ratings it has."""


@dataclass(frozen=True)
class TrainingSummary:
    """What training did."""

    history: list[IterationRecord]
    stop_reason: str
    """"max_iter", "tol" or "patience"."""
    best_iteration: int
    """The iteration whose factors the model has."""
    global_mean: float
    """Mean training rating; with biases predictions start from it."""
    n_users: int
    n_items: int
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by phase: index (reads the input), block, iterate, publish. Where several trainings have shared the
    first two, each says how long these took once."""

    @property
    def objective_history(self) -> list[float]:
        """Squared error plus penalty after each iteration."""
        return [record.objective for record in self.history]


class TrainedTables(NamedTuple):
    """Factors by raw id."""

    user_factors: FactorTable
    item_factors: FactorTable
    summary: TrainingSummary


@dataclass(frozen=True)
class PreparedRatings:
    """Ratings that any number of trainings, one after the other or at the same time, can iterate over."""

    index: RatingsIndex
    wide: Wide
    blocked: BlockedRatings
    id_types: dict[Side, DataType]
    seconds: dict[str, float]
    """Wall time of index and block."""

    def id_of(self, side: Side, row: int) -> str:
        """The raw id of a dense index, as text."""
        narrow, wide = (self.index.users, self.wide.users) if side == "user" else (self.index.items, self.wide.items)
        if narrow is not None or wide is None:
            return shown(narrow.ids, row) if narrow else ""
        block = int(wide.ranges.blocks_of(np.array([row]))[0])
        (ids,) = wide.ids.context.runJob(wide.ids, list, [block])
        return shown(ids, row - int(wide.ranges.bounds[block]))


@contextmanager
def prepared(ratings: DataFrame, blocks: BlockConfig) -> Iterator[PreparedRatings]:
    """Index and block the ratings, and keep the blocks until the end.

    Parameters
    ----------
    ratings : as for `encode_ratings`; read once, and again where a part of the cache is lost, so it must be
        deterministic

    Raises
    ------
    DataError        there is nothing to train on, or rows that cannot be trained on, or the ratings changed
    CapacityError    more distinct ids than an int32 index can number
    """
    context = ratings.sparkSession.sparkContext
    phases = _Phases(context)
    with ExitStack() as cached:
        with phases.time("index"):
            encoded = encode_ratings(ratings).persist(blocks.storage)
            cached.callback(encoded.unpersist)
            index = index_ratings(encoded, blocks.max_ids)
            n_auto = max(2 * context.defaultParallelism, index.n_training // _RATINGS_IN_BLOCK)
            # Blocks beyond the rows would be empty, each with its task. As many on both sides: SGD asks for that.
            n_most = max(MAX_INDEX if side is None else side.n_ids for side in (index.users, index.items))
            n_user_blocks, n_item_blocks = (
                min(n or n_auto, n_most) for n in (blocks.n_user_blocks, blocks.n_item_blocks)
            )
            wide = Wide(
                None if index.users else index_wide_side(encoded, "user", n_user_blocks, blocks.storage),
                None if index.items else index_wide_side(encoded, "item", n_item_blocks, blocks.storage),
            )
            for side in filter(None, wide):
                cached.callback(side.release)
        with phases.time("block"):
            layout = layout_of(index, wide, n_user_blocks, n_item_blocks, are_rows_whole=blocks.are_rows_whole)
            blocked = block_ratings(encoded, index, layout, wide, blocks.storage)
            cached.callback(blocked.release)
            encoded.unpersist()
        id_types: dict[Side, DataType] = {
            "user": ratings.schema["user_id"].dataType,
            "item": ratings.schema["item_id"].dataType,
        }
        yield PreparedRatings(index, wide, blocked, id_types, phases.seconds)


def broadcast_limit(context: SparkContext) -> int:
    """Bytes of a side's factors that every Python worker can be given, where nobody has said how many. On the driver.

    Half the memory of an executor, shared by its cores: each of them has a worker with a copy of its own.
    """
    is_local = str(context.master).startswith("local")
    memory = context.getConf().get("spark.driver.memory" if is_local else "spark.executor.memory", "1g")
    jvm: Any = context._jvm
    n_bytes = int(jvm.org.apache.spark.network.util.JavaUtils.byteStringAsBytes(memory))
    cores = context.defaultParallelism if is_local else int(context.getConf().get("spark.executor.cores", "1") or 1)
    return int(_BROADCAST_SHARE * n_bytes / cores)


def train_model(
    prepare: Callable[[], AbstractContextManager[PreparedRatings]],
    solver: Solver,
    loop: LoopConfig,
    storage: StorageLevel,
    known: tuple[FactorTable, FactorTable] | None = None,
    checkpoints: Callable[[dict[str, Any]], Checkpoints] | None = None,
) -> TrainedTables:
    """Iterate over the ratings that `prepare` makes, or that it has made before for others.

    Parameters
    ----------
    storage : where the table of a wide side is kept
    known : factors of users and items to start from, by raw id; ids without ratings are forgotten
    checkpoints : what the data are known by → where the training leaves its checkpoints and goes on from them

    Raises
    ------
    SchemaError       the known ids are not of the ratings' type
    DataError         as `prepared`
    CapacityError     a wide side, which the solver, or the start from known factors, has no way for
    NumericalError    a user or item has no unique solution, or factors overflowed

    Runs on the driver; what is cached on the way is released at the end, also after an error.
    """
    # Of the two or more workers that need the kernels at once, each would compile them for itself.
    compiler = threading.Thread(target=_compile, args=[solver], daemon=True)
    compiler.start()
    with prepare() as ratings:
        blocked = ratings.blocked
        _announce_exchange(blocked, solver)
        phases = _Phases(blocked.context)
        with phases.time("iterate"):
            compiler.join()
            if solver.objective.has_biases:
                solver = solver.with_mean(blocked.mean_rating)
            start = known and _known_factors(ratings.index, solver.n_columns, *known)
            saved = checkpoints and checkpoints(fingerprint(ratings.index, blocked, start))
            trained = _iterate(ratings, solver, loop, start, saved)
        with phases.time("publish"):
            user_factors = _table_of(ratings, "user", trained.user_factors, solver.rank, storage)
            item_factors = _table_of(ratings, "item", trained.item_factors, solver.rank, storage)
        summary = TrainingSummary(
            trained.history,
            trained.stop_reason,
            trained.best_iteration,
            blocked.mean_rating,
            blocked.users.ranges.n_rows,
            blocked.items.ranges.n_rows,
            ratings.seconds | phases.seconds,
        )
    return TrainedTables(user_factors, item_factors, summary)


def _compile(solver: Solver) -> None:
    # On made-up numbers: where settings make these too large, the training itself will tell.
    with np.errstate(all="ignore"):
        solver.compile()


class SharedRatings:
    """Blocks that several trainings need, made by the first and released by the last, or when one has failed.

    n_trainings : number of them; None where it is not known: then `release` alone releases them

    Safe in several threads. Runs on the driver.
    """

    def __init__(self, prepare: Callable[[], AbstractContextManager[PreparedRatings]], n_trainings: int | None) -> None:
        self._prepare, self._n_to_come, self._n_within = prepare, n_trainings, 0
        self._lock = threading.Lock()
        self._held: ExitStack | None = None
        self._ratings: PreparedRatings | None = None

    @contextmanager
    def borrow(self) -> Iterator[PreparedRatings]:
        """The blocks, for one training."""
        with self._lock:
            if self._held is None or self._ratings is None:
                held = ExitStack()
                self._ratings = held.enter_context(self._prepare())
                self._held = held
            self._n_within += 1
            if self._n_to_come is not None:
                self._n_to_come -= 1
            ratings = self._ratings
        is_done = False
        try:
            yield ratings
            is_done = True
        finally:
            with self._lock:
                self._n_within -= 1
                is_over = self._n_to_come is not None and (self._n_to_come <= 0 or not is_done)
                if self._n_within == 0 and is_over:
                    self._drop()

    def release(self) -> None:
        """Drop the blocks, if there are any; no training may go on."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._held is not None:
            self._held.close()
        self._held = self._ratings = None


class _Phases:
    """Wall time by phase; the phase also names the Spark jobs that run in it."""

    def __init__(self, context: SparkContext) -> None:
        self.seconds: dict[str, float] = {}
        self._context = context

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        with named_jobs(self._context, f"train: {phase}"):
            yield
        self.seconds[phase] = time.monotonic() - started


def _announce_exchange(blocked: BlockedRatings, solver: Solver) -> None:
    """Say how each side's factors travel; raise CapacityError where the solver has no such way."""
    for name, blocks in (("user", blocked.users), ("item", blocked.items)):
        n_rows, n_bytes = blocks.ranges.n_rows, blocks.ranges.n_rows * solver.n_columns * 4
        way = "exchanged block to block" if blocks.is_wide else "broadcast"
        logger.info(
            "%d %ss in %d blocks, factors of %.3g MB: %s", n_rows, name, blocks.ranges.n_blocks, n_bytes / 1e6, way
        )
        if blocks.is_wide and not solver.has_wide_sides:
            raise CapacityError(
                f"the factors of {n_rows} {name}s take {n_bytes} bytes, more than may be broadcast, and only the exact "
                "solvers of ALS work without; choose solver 'cholesky', a lower rank, or a higher maxBroadcastBytes"
            )


def _known_factors(index: RatingsIndex, n_columns: int, users: FactorTable, items: FactorTable) -> KnownFactors:
    if index.users is None and index.items is None:
        raise CapacityError(
            "both sides' factors are larger than may be broadcast, and training cannot start from an initial model "
            "then; leave it out, or raise maxBroadcastBytes"
        )
    nothing = np.empty((0, n_columns), np.float32), np.empty(0, bool)
    user_factors, are_users_known = nothing if index.users is None else _in_order_of(index.users.ids, users)
    item_factors, _ = nothing if index.items is None else _in_order_of(index.items.ids, items)
    return KnownFactors(user_factors, item_factors, has_new_users=not are_users_known.all())


def _table_of(
    ratings: PreparedRatings, side: Side, factors: Factors | WideFactors, rank: int, storage: StorageLevel
) -> FactorTable:
    narrow, wide = (
        (ratings.index.users, ratings.wide.users) if side == "user" else (ratings.index.items, ratings.wide.items)
    )
    spark = SparkSession.active()
    if isinstance(factors, WideFactors):
        return wide_factor_table(spark, wide.ids, factors, ratings.id_types[side], storage)  # type: ignore[union-attr]
    return factor_table(spark, narrow.ids, factors, rank)  # type: ignore[union-attr]


def _in_order_of(ids: pa.Array, known: FactorTable) -> tuple[Factors, NDArray[np.bool_]]:
    """Factors of these ids, zeros where an id has none, and which have some."""
    known_ids, factors = known.collect()
    if known_ids.type != ids.type:
        raise SchemaError(
            f"the initial model's ids are {known_ids.type}, those of the ratings {ids.type}; cast the ratings' ids"
        )
    position = pc.index_in(ids, value_set=known_ids)
    is_known = position.is_valid().to_numpy(zero_copy_only=False)
    ordered = factors[position.fill_null(0).to_numpy()]
    ordered[~is_known] = 0
    return ordered, is_known


def _iterate(
    ratings: PreparedRatings,
    solver: Solver,
    loop: LoopConfig,
    known: KnownFactors | None,
    checkpoints: Checkpoints | None,
) -> Trained:
    try:
        return run_loop(ratings.blocked, solver, loop, known, checkpoints)
    except UnsolvedRowError as error:
        side = ratings.index.users if error.side == "user" else ratings.index.items
        n_ratings = "" if side is None else f"{side.n_ratings[error.index]} ratings, "
        regularization = solver.regularization.of(error.side)
        row = f"{error.side} {ratings.id_of(error.side, error.index)}"
        system = f"rank {solver.rank}, {n_ratings}regularization {regularization:g}"
        remedy = f"raise regParam or {error.side}RegParam"
        if error.problem == "singular" and regularization == 0:
            raise NumericalError(
                f"the normal equation of {row} has no unique solution ({system}); {remedy}, or lower the rank"
            ) from error
        scales = "alpha, ratings and weights" if isinstance(solver.objective, Implicit) else "ratings and weights"
        raise NumericalError(
            f"the numbers in the normal equation of {row} are too large, or too unequal, to solve it ({system}); scale "
            f"{scales} down, or {remedy}"
        ) from error
