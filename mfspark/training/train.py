"""Train: blocked ratings in, factor tables out. The estimators and the jobs both use it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import StorageLevel

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.index import IdIndex, whole_ids
from mfspark.blocks.records import OTHER, Side
from mfspark.errors import NumericalError, SchemaError
from mfspark.training.exchange import Factors, WideFactors
from mfspark.training.factor_tables import FactorTable, factor_table, wide_factor_table
from mfspark.training.fingerprint import fingerprint
from mfspark.training.loop import (
    Algorithm,
    Checkpoints,
    InitialFactors,
    IterationRecord,
    LoopConfig,
    LoopResult,
    UnsolvedRowError,
    run_loop,
)
from mfspark.training.objective import Implicit
from mfspark.training.wide import initial_wide_factors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSummary:
    """The course of a training."""

    history: list[IterationRecord]
    stop_reason: str
    """"max_iter", "tol" or "patience"."""
    best_iteration: int
    """The iteration that made the model's factors."""
    global_mean: float
    """Mean training rating; with biases it is part of each prediction."""
    n_users: int
    n_items: int
    engine: str
    """"local", "rdd" or "connect"."""
    n_wide_sides: int = 0
    """Sides whose factors stayed on the executors."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by phase: index (reads the input), block, iterate, tables. Trainings that share the first two phases
    all report the same time for them."""

    @property
    def objective_history(self) -> list[float]:
        """Squared error plus penalty after each iteration."""
        return [record.objective for record in self.history]


def compile_meanwhile(algorithm: Algorithm) -> None:
    """Compile the kernels on a separate thread while the ratings are read.

    Otherwise every worker would compile them, because all need them at the same time.
    """
    Thread(target=_compile, args=[algorithm], daemon=True).start()


def _compile(algorithm: Algorithm) -> None:
    # Compiles on made-up numbers. If settings make them overflow, the training itself reports it.
    with np.errstate(all="ignore"):
        algorithm.compile()


def train(
    ratings: BlockedRatings,
    algorithm: Algorithm,
    loop: LoopConfig,
    storage: StorageLevel,
    initial: tuple[FactorTable, FactorTable] | None = None,
    checkpoints: Callable[[dict[str, Any]], Checkpoints] | None = None,
) -> tuple[FactorTable, FactorTable, TrainingSummary]:
    """Iterate over the ratings, and return the factors of users and items by raw id.

    Parameters
    ----------
    storage : storage level of the table of a wide side
    initial : factors of users and items to start from, by raw id; ids without ratings are dropped
    checkpoints : takes the fingerprint of the ratings, returns the checkpoints of the training; training continues from
        the last one

    Raises
    ------
    SchemaError       the initial ids have another type than the ratings' ids
    NumericalError    a user or item has no unique solution, or factors overflowed

    Runs on the driver.
    """
    _announce(ratings, algorithm)
    seconds = dict(ratings.seconds)
    with ratings.of_one_training() as own:
        with _timed(seconds, "iterate"), own.engine.named("train: iterate"):
            _compile(algorithm)  # waits for `compile_meanwhile`
            if algorithm.objective.has_biases:
                algorithm = algorithm.with_mean(own.mean_rating)
            start = initial and _initial_factors(own, algorithm, *initial)
            kept = checkpoints and checkpoints(fingerprint(own, start))
            result = _iterate(own, algorithm, loop, start, kept)
        with _timed(seconds, "tables"), own.engine.named("train: tables"):
            users = _table_of(own, "user", result.user_factors, algorithm.rank, storage)
            items = _table_of(own, "item", result.item_factors, algorithm.rank, storage)
    summary = TrainingSummary(
        result.history,
        result.stop_reason,
        result.best_iteration,
        ratings.mean_rating,
        ratings.users.ranges.n_rows,
        ratings.items.ranges.n_rows,
        ratings.engine.name,
        ratings.users.is_wide + ratings.items.is_wide,
        seconds,
    )
    return users, items, summary


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[phase] = time.monotonic() - started


def _announce(ratings: BlockedRatings, algorithm: Algorithm) -> None:
    """Log the engine and the exchange of each side's factors."""
    engine = ratings.engine
    place = f"on {engine.n_cores} threads of the driver" if engine.name == "local" else "on the executors"
    logger.info("training on %d ratings %s (engine %s)", ratings.n_ratings, place, engine.name)
    for name, blocks in (("user", ratings.users), ("item", ratings.items)):
        n_rows, n_bytes = blocks.ranges.n_rows, blocks.ranges.n_rows * algorithm.n_columns * 4
        way = "exchanged block to block" if blocks.is_wide else "in memory" if engine.name == "local" else "broadcast"
        logger.info(
            "%d %ss in %d blocks, factors of %.3g MB: %s", n_rows, name, blocks.ranges.n_blocks, n_bytes / 1e6, way
        )


def _initial_factors(
    ratings: BlockedRatings, algorithm: Algorithm, users: FactorTable, items: FactorTable
) -> InitialFactors:
    (user_factors, are_users_known), (item_factors, are_items_known) = (
        _in_order_of(whole_ids(ids.ids, ratings.id_types[side])[0], table)
        if isinstance(ids := ratings.of(side).ids, IdIndex)
        else initial_wide_factors(ratings, side, table, algorithm.n_columns, algorithm.rank)
        for side, table in zip(OTHER, (users, items), strict=True)
    )
    return InitialFactors(user_factors, item_factors, are_users_known, are_items_known)


def _in_order_of(ids: pa.Array, initial: FactorTable) -> tuple[Factors, NDArray[np.bool_]]:
    """Factors of these ids, zeros for an id without factors; and which ids have factors."""
    initial_ids, factors = initial.collect()
    if initial_ids.type != ids.type:
        raise SchemaError(
            f"the initial model has {initial_ids.type} ids, the ratings have {ids.type} ids; cast the ratings' ids"
        )
    position = pc.index_in(ids, value_set=initial_ids)
    is_known = position.is_valid().to_numpy(zero_copy_only=False)
    ordered = factors[position.fill_null(0).to_numpy()]
    ordered[~is_known] = 0
    return ordered, is_known


def _table_of(
    ratings: BlockedRatings, side: Side, factors: Factors | WideFactors, rank: int, storage: StorageLevel
) -> FactorTable:
    ids, id_type = ratings.of(side).ids, ratings.id_types[side]
    if isinstance(factors, WideFactors):
        return wide_factor_table(ids.ids, factors, id_type, storage)
    return factor_table(ratings.engine, ids.ids, factors, rank, id_type)


def _iterate(
    ratings: BlockedRatings,
    algorithm: Algorithm,
    loop: LoopConfig,
    initial: InitialFactors | None,
    checkpoints: Checkpoints | None,
) -> LoopResult:
    try:
        return run_loop(ratings, algorithm, loop, initial, checkpoints)
    except UnsolvedRowError as error:
        raise NumericalError(_unsolved(ratings, algorithm, error)) from error


def _unsolved(ratings: BlockedRatings, algorithm: Algorithm, error: UnsolvedRowError) -> str:
    """The message for a row that could not be solved."""
    blocks = ratings.of(error.side)
    n_of_row = blocks.n_ratings_of(error.index)
    n_ratings = "" if n_of_row is None else f"{n_of_row} ratings, "
    regularization = algorithm.regularization.of(error.side)
    row = f"{error.side} {blocks.id_of(error.index)}"
    system = f"rank {algorithm.rank}, {n_ratings}regularization {regularization:g}"
    remedy = f"raise regParam or {error.side}RegParam"
    if error.problem == "singular" and regularization == 0:
        return f"the normal equation of {row} has no unique solution ({system}); {remedy}, or lower the rank"
    scales = "alpha, ratings and weights" if isinstance(algorithm.objective, Implicit) else "ratings and weights"
    return (
        f"cannot solve the normal equation of {row}: its numbers are too large or differ too much in size ({system}); "
        f"scale {scales} down, or {remedy}"
    )
