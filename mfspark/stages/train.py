"""Train: ratings in, factor tables out. The one way to a model, for the estimator and the jobs alike."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import SparkContext, StorageLevel
from pyspark.sql import DataFrame, SparkSession

from mfspark.errors import NumericalError, SchemaError
from mfspark.solvers.blocks import BlockedRatings
from mfspark.solvers.exchange import Factors, named_jobs
from mfspark.solvers.loop import IterationRecord, KnownFactors, LoopConfig, SingularRowError, Solver, Trained, run_loop
from mfspark.stages.block import block_ratings
from mfspark.stages.encode import encode_ratings
from mfspark.stages.index import RatingsIndex, index_ratings
from mfspark.stages.publish import FactorTable, factor_table

# Where the number of blocks is ours to choose: 30 to 80 MB of a block.
_RATINGS_IN_BLOCK = 1 << 23


@dataclass(frozen=True)
class BlockConfig:
    """How the ratings are partitioned and kept."""

    n_user_blocks: int
    """0: two tasks a core, and no more than _RATINGS_IN_BLOCK ratings a task."""
    n_item_blocks: int
    storage: StorageLevel


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
    blocked: BlockedRatings
    seconds: dict[str, float]
    """Wall time of index and block."""


@contextmanager
def prepared(ratings: DataFrame, blocks: BlockConfig) -> Iterator[PreparedRatings]:
    """Index and block the ratings, and keep the blocks until the end.

    Parameters
    ----------
    ratings : as for `encode_ratings`; read once, and again where a part of the cache is lost, so it must be
        deterministic

    Raises
    ------
    DataError    there is nothing to train on, or rows that cannot be trained on, or the ratings changed
    """
    context = ratings.sparkSession.sparkContext
    phases = _Phases(context)
    with ExitStack() as cached:
        with phases.time("index"):
            encoded = encode_ratings(ratings).persist(blocks.storage)
            cached.callback(encoded.unpersist)
            index = index_ratings(encoded)
        with phases.time("block"):
            n_blocks = max(2 * context.defaultParallelism, index.n_training // _RATINGS_IN_BLOCK)
            blocked = block_ratings(
                encoded, index, blocks.n_user_blocks or n_blocks, blocks.n_item_blocks or n_blocks, blocks.storage
            )
            cached.callback(blocked.release)
            encoded.unpersist()
        yield PreparedRatings(index, blocked, phases.seconds)


def train_model(
    prepare: Callable[[], AbstractContextManager[PreparedRatings]],
    solver: Solver,
    loop: LoopConfig,
    known: tuple[FactorTable, FactorTable] | None = None,
) -> TrainedTables:
    """Iterate over the ratings that `prepare` makes, or that it has made before for others.

    Parameters
    ----------
    known : factors of users and items to start from, by raw id; ids without ratings are forgotten

    Raises
    ------
    SchemaError       the known ids are not of the ratings' type
    DataError         as `prepared`
    NumericalError    a user or item has no unique solution, or factors overflowed

    Runs on the driver; what is cached on the way is released at the end, also after an error.
    """
    # Of the two or more workers that need the kernels at once, each would compile them for itself.
    compiler = threading.Thread(target=solver.compile, daemon=True)
    compiler.start()
    with prepare() as ratings:
        index, blocked = ratings.index, ratings.blocked
        phases = _Phases(blocked.rdd.context)
        with phases.time("iterate"):
            compiler.join()
            if solver.objective.has_biases:
                solver = solver.with_mean(blocked.mean_rating)
            trained = _iterate(blocked, solver, loop, index, known and _known_factors(index, *known))
    spark = SparkSession.active()
    with phases.time("publish"):
        user_factors = factor_table(spark, index.users.ids, trained.user_factors, solver.rank)
        item_factors = factor_table(spark, index.items.ids, trained.item_factors, solver.rank)
    summary = TrainingSummary(
        trained.history,
        trained.stop_reason,
        trained.best_iteration,
        blocked.mean_rating,
        index.users.n_ids,
        index.items.n_ids,
        ratings.seconds | phases.seconds,
    )
    return TrainedTables(user_factors, item_factors, summary)


class SharedRatings:
    """Blocks that several trainings need, made by the first and released by the last, or when one has failed.

    Safe in several threads. Runs on the driver.
    """

    def __init__(self, prepare: Callable[[], AbstractContextManager[PreparedRatings]], n_trainings: int) -> None:
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
            self._n_within, self._n_to_come = self._n_within + 1, self._n_to_come - 1
            ratings = self._ratings
        is_done = False
        try:
            yield ratings
            is_done = True
        finally:
            with self._lock:
                self._n_within -= 1
                if self._n_within == 0 and (self._n_to_come <= 0 or not is_done) and self._held is not None:
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


def _known_factors(index: RatingsIndex, users: FactorTable, items: FactorTable) -> KnownFactors:
    user_factors, are_users_known = _in_order_of(index.users.ids, users)
    item_factors, _ = _in_order_of(index.items.ids, items)
    return KnownFactors(user_factors, item_factors, has_new_users=not are_users_known.all())


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
    blocked: BlockedRatings, solver: Solver, loop: LoopConfig, index: RatingsIndex, known: KnownFactors | None
) -> Trained:
    try:
        return run_loop(blocked, solver, loop, known)
    except SingularRowError as error:
        side = index.users if error.side == "user" else index.items
        raise NumericalError(
            f"the normal equation of {error.side} {side.ids[error.index]} has no unique solution "
            f"(rank {solver.rank}, {side.n_ratings[error.index]} ratings, "
            f"regParam {solver.regularization.of(error.side):g}); "
            "raise regParam or lower the rank"
        ) from error
