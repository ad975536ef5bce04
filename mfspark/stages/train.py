"""Train: ratings in, factor tables out. The one way to a model, for the estimator and the jobs alike."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from pyspark import SparkContext, StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.errors import DataError, NumericalError
from mfspark.solvers.blocks import BlockedRatings
from mfspark.solvers.exchange import named_jobs
from mfspark.solvers.loop import IterationRecord, LoopConfig, SingularRowError, Solver, Trained
from mfspark.solvers.loop import train as run_loop
from mfspark.stages.block import block_ratings
from mfspark.stages.index import IdIndex, balanced_bounds, index_ids, to_indices
from mfspark.stages.publish import factor_table


@dataclass(frozen=True)
class BlockConfig:
    """How the ratings are partitioned and kept."""

    n_user_blocks: int
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
    n_users: int
    n_items: int
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by phase: index, block (with the first pass over the data), iterate, publish."""

    @property
    def objective_history(self) -> list[float]:
        """Squared error plus penalty after each iteration."""
        return [record.objective for record in self.history]


class TrainedTables(NamedTuple):
    """Factors by raw id."""

    user_factors: DataFrame
    """id (the input's type), features array<float>."""
    item_factors: DataFrame
    summary: TrainingSummary


def train_model(ratings: DataFrame, solver: Solver, blocks: BlockConfig, loop: LoopConfig) -> TrainedTables:
    """Index, block and iterate.

    Parameters
    ----------
    ratings : user_id, item_id, rating float, is_validation boolean; read four times, so cache what is costly
        to compute; must be deterministic

    Raises
    ------
    DataError         there is nothing to train on, or the ratings changed between two reads
    NumericalError    a user or item has no unique solution, or factors overflowed

    Runs on the driver; everything cached on the way is released at the end, also after an error.
    """
    phases = _Phases(ratings.sparkSession.sparkContext)
    with phases.time("check"):
        n_ratings = _require_usable(ratings)
    training = ratings.where(~F.col("is_validation"))
    with ExitStack() as cached:
        with phases.time("index"):
            users = index_ids(training, "user_id")
            cached.callback(users.unpersist)
            items = index_ids(training, "item_id")
            cached.callback(items.unpersist)
        with phases.time("block"):
            blocked = _block(ratings, users, items, blocks)
            cached.callback(blocked.unpersist)
            _require_all_blocked(blocked, n_ratings)
        with phases.time("iterate"):
            trained = _iterate(blocked, solver, loop, users, items)
        with phases.time("publish"):
            user_factors = factor_table(users, trained.user_factors)
            item_factors = factor_table(items, trained.item_factors)
    summary = TrainingSummary(
        trained.history, trained.stop_reason, trained.best_iteration, users.n_ids, items.n_ids, phases.seconds
    )
    return TrainedTables(user_factors, item_factors, summary)


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


def _require_usable(ratings: DataFrame) -> int:
    """Number of training ratings; an error where a value cannot be trained on."""
    is_bad_rating = F.col("rating").isNull() | F.isnan("rating") | (F.abs("rating") == float("inf"))
    counts = ratings.agg(
        F.count_if(F.col("user_id").isNull()).alias("null user ids"),
        F.count_if(F.col("item_id").isNull()).alias("null item ids"),
        F.count_if(is_bad_rating).alias("null, NaN or infinite ratings"),
        F.count_if(F.col("is_validation").isNull()).alias("null validation flags"),
        F.count_if(~F.col("is_validation")).alias("training ratings"),
    ).first()
    found = counts.asDict() if counts else {}
    n_ratings = int(found.pop("training ratings"))
    problems = [f"{count} {what}" for what, count in found.items() if count]
    if problems:
        raise DataError(
            f"cannot train on {', '.join(problems)}; drop these rows, or let the ingest step move them to "
            "rejected_ratings"
        )
    if n_ratings == 0:
        raise DataError("No ratings available for training; expected at least one")
    return n_ratings


def _block(ratings: DataFrame, users: IdIndex, items: IdIndex, config: BlockConfig) -> BlockedRatings:
    return block_ratings(
        to_indices(ratings, users, items),
        balanced_bounds(users, config.n_user_blocks),
        balanced_bounds(items, config.n_item_blocks),
        config.storage,
    )


def _require_all_blocked(blocked: BlockedRatings, n_ratings: int) -> None:
    """Build the blocks, and raise DataError when they do not hold what the first read has counted."""
    n_blocked = blocked.rdd.map(lambda block: (block.train.src.size, block.validation.src.size)).collect()
    if sum(train for train, _ in n_blocked) != 2 * n_ratings:
        raise DataError(
            f"the ratings changed while they were read: {n_ratings} at first, then "
            f"{sum(train for train, _ in n_blocked) / 2:g} of known ids; write them to a table, or checkpoint "
            "them, before training"
        )


def _iterate(blocked: BlockedRatings, solver: Solver, loop: LoopConfig, users: IdIndex, items: IdIndex) -> Trained:
    try:
        return run_loop(blocked, solver, loop)
    except SingularRowError as error:
        index = users if error.side == "user" else items
        row = index.table.where(F.col("index") == error.index).first()
        raise NumericalError(
            f"the normal equation of {error.side} {row['id'] if row else error.index} has no unique solution "
            f"(rank {loop.rank}, {row['n_ratings'] if row else '?'} ratings, regParam {solver.regularization:g}); "
            "raise regParam or lower the rank"
        ) from error
