"""The training loop: one for both halves of an iteration and for every solver."""

import logging
import math
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mfspark.errors import NumericalError
from mfspark.kernels.initial import initial_factors
from mfspark.solvers.blocks import BlockedRatings, RatingBlock, Side
from mfspark.solvers.exchange import BlockUpdate, Factors, named_jobs, update_side

logger = logging.getLogger(__name__)


class Solver(Protocol):
    """How one block is solved. Pickled to the executors."""

    @property
    def regularization(self) -> float:
        """λ of the penalty."""

    @property
    def starts_from_old(self) -> bool:
        """Whether `update_block` needs the factors that it replaces."""

    def compile(self) -> None:
        """Have the kernels compiled into the cache that executors on this machine read."""

    def update_block(self, block: RatingBlock, src_factors: Factors, old_factors: Factors | None) -> BlockUpdate:
        """Solve the block's destination rows, the source factors held fixed."""


class SingularRowError(Exception):
    """A row's normal equation has no unique solution; carries the side and the dense index."""

    def __init__(self, side: Side, index: int) -> None:
        super().__init__(f"{side} {index}")
        self.side, self.index = side, index


@dataclass(frozen=True)
class LoopConfig:
    """When to start from what, and when to stop."""

    rank: int
    max_iter: int
    seed: int
    tol: float = 0.0
    """Stop when an iteration lowers the objective by less than this share of it; 0 never stops."""
    patience: int = 0
    """Stop when the validation RMSE has not improved for so many iterations, and keep the best; 0 never."""


@dataclass(frozen=True)
class IterationRecord:
    """What one iteration, both halves, came to."""

    iteration: int
    squared_error: float
    """Σ (r − x·y)² over the training ratings."""
    penalty: float
    """λ Σ (|x|² + |y|²) over the training ratings."""
    rmse: float
    """√(squared_error / number of training ratings)."""
    validation_rmse: float | None
    seconds: float

    @property
    def objective(self) -> float:
        """What training minimises."""
        return self.squared_error + self.penalty


@dataclass(frozen=True)
class Trained:
    """Result of the loop, on the driver."""

    user_factors: Factors
    item_factors: Factors
    history: list[IterationRecord]
    stop_reason: str
    """"max_iter", "tol" or "patience"."""
    best_iteration: int
    """The iteration whose factors these are."""


def run_loop(ratings: BlockedRatings, solver: Solver, config: LoopConfig) -> Trained:
    """Alternate between the sides until a stop criterion holds.

    Items are solved first, then users, as in Spark's ALS: the user factors are the exact answer to the
    item factors. Runs on the driver; each half-iteration is one Spark job.

    Before each half-iteration the sides are balanced: X s and Y / s predict the same for any s, and the s that makes
    the two halves of the penalty equal makes it least. ALS alone gets there slowly, from iteration to iteration;
    this way it reached the objective of its tenth iteration in the second or third, on MovieLens 20M at rank 64.

    Raises
    ------
    SingularRowError    a normal equation has no unique solution
    NumericalError      factors overflowed or are not numbers
    """
    state = _initial_state(ratings, config)
    best = state
    for iteration in range(1, config.max_iter + 1):
        state = _iterate(ratings, solver, state, f"iteration {iteration}/{config.max_iter}")
        _log_progress(state.history[-1], config.max_iter)
        if config.patience == 0 or _is_best(state.history):
            best = state
        stop_reason = _stop_reason(state.history, config)
        if stop_reason:
            break
    else:
        stop_reason = "max_iter"
    logger.info("stopped after %d iterations: %s", len(state.history), stop_reason)
    return Trained(best.users.factors, best.items.factors, state.history, stop_reason, len(best.history))


@dataclass(frozen=True)
class _SideState:
    """Factors of one side."""

    factors: Factors
    penalty: float
    """Σ n |x|²."""

    def scaled(self, scale: float) -> "_SideState":
        return _SideState(self.factors * np.float32(scale), self.penalty * scale**2)


@dataclass(frozen=True)
class _State:
    users: _SideState
    items: _SideState
    history: list[IterationRecord]


def _initial_state(ratings: BlockedRatings, config: LoopConfig) -> _State:
    def start(side: Side, seed: int) -> _SideState:
        # Initial rows have length 1: each rating adds 1 to the penalty.
        return _SideState(initial_factors(seed, ratings.n_rows(side), config.rank), ratings.n_ratings)

    # Two seeds: the sides must not start from the same directions.
    return _State(start("user", 2 * config.seed), start("item", 2 * config.seed + 1), [])


def _iterate(ratings: BlockedRatings, solver: Solver, state: _State, label: str) -> _State:
    started = time.monotonic()
    users, items = _balanced(state.users, state.items, solver)
    items, _ = _solve(ratings, "item", users, items, solver, label)
    users, items = _balanced(users, items, solver)
    users, updates = _solve(ratings, "user", items, users, solver, label)
    squared_error = math.fsum(update.squared_error for update in updates)
    validation_error = math.fsum(update.validation_squared_error for update in updates)
    n_validation = sum(update.n_validation for update in updates)
    record = IterationRecord(
        iteration=len(state.history) + 1,
        squared_error=squared_error,
        penalty=solver.regularization * (users.penalty + items.penalty),
        rmse=math.sqrt(squared_error / ratings.n_ratings),
        validation_rmse=math.sqrt(validation_error / n_validation) if n_validation else None,
        seconds=time.monotonic() - started,
    )
    return _State(users, items, [*state.history, record])


def _balanced(users: _SideState, items: _SideState, solver: Solver) -> tuple[_SideState, _SideState]:
    """Scale the sides against each other until their penalties are equal."""
    if solver.regularization == 0 or users.penalty == 0 or items.penalty == 0:
        return users, items
    scale = (items.penalty / users.penalty) ** 0.25
    return users.scaled(scale), items.scaled(1 / scale)


def _solve(
    ratings: BlockedRatings, side: Side, src: _SideState, old: _SideState, solver: Solver, label: str
) -> tuple[_SideState, list[BlockUpdate]]:
    """Run one half-iteration."""
    old_factors = old.factors if solver.starts_from_old else None
    with named_jobs(ratings.rdd.context, f"{label}: solve {side} factors"):
        updates = update_side(ratings, side, src.factors, solver.update_block, old_factors)
    singular = [done.singular_row for done in updates if done.singular_row >= 0]
    if singular:
        raise SingularRowError(side, min(singular))
    factors = np.empty_like(old.factors)
    for update in updates:
        factors[update.rows] = update.factors
    if not np.isfinite(factors).all():
        raise NumericalError(
            "factors overflowed float32 or are not numbers; scale the ratings down or raise the regularization"
        )
    return _SideState(factors, math.fsum(update.penalty for update in updates)), updates


def _is_best(history: list[IterationRecord]) -> bool:
    """Whether the last iteration has the lowest validation RMSE so far."""
    errors = [record.validation_rmse for record in history if record.validation_rmse is not None]
    return not errors or errors[-1] < min(errors[:-1], default=math.inf)


def _stop_reason(history: list[IterationRecord], config: LoopConfig) -> str | None:
    errors = [record.validation_rmse for record in history if record.validation_rmse is not None]
    if config.patience and errors and len(errors) - 1 - int(np.argmin(errors)) >= config.patience:
        return "patience"
    if len(history) > 1 and config.tol:
        before, now = history[-2].objective, history[-1].objective
        if before - now < config.tol * before:
            return "tol"
    return None


def _log_progress(record: IterationRecord, max_iter: int) -> None:
    validation = "" if record.validation_rmse is None else f"  validation RMSE {record.validation_rmse:.4f}"
    logger.info(
        "iteration %d/%d  squared error %.6g  penalty %.6g  RMSE %.4f%s  %.1f s",
        record.iteration,
        max_iter,
        record.squared_error,
        record.penalty,
        record.rmse,
        validation,
        record.seconds,
    )
