"""The training loop: one for every algorithm and every engine."""

import logging
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.records import Side
from mfspark.engine.engine import Parts
from mfspark.errors import ConfigError, NumericalError
from mfspark.training.duration import shown_duration
from mfspark.training.exchange import Factors, WideFactors
from mfspark.training.objective import Objective, Regularization

logger = logging.getLogger(__name__)

# The mean of this many last iterations predicts the next one; the first iteration is slower.
_RECENT = 5


@dataclass(frozen=True)
class SideState:
    """Factors of one side."""

    factors: Factors | WideFactors
    """float32[n_rows, n_columns]."""
    penalty: float
    """λ Σ n |x|²; 0 before the first iteration, when the n are not known."""
    bias_penalty: float = 0.0
    gram: NDArray[np.float64] | None = None
    """float64[n_columns, n_columns], Σ x xᵀ, if needed."""
    accumulated: Factors | WideFactors | None = None
    """float32[n_rows, 1], sum of squared gradients of each row, for AdaGrad."""
    scales: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """float64[n_rows], the number of times that λ counts for each row; empty if unknown; sums for a wide side."""

    @property
    def matrix(self) -> Factors:
        """The factors of a narrow side."""
        assert isinstance(self.factors, np.ndarray)
        return self.factors


@dataclass(frozen=True)
class State:
    """The state of training after an iteration, on the driver."""

    users: SideState
    items: SideState
    history: "list[IterationRecord]"

    @property
    def wide_parts(self) -> list[Parts[Any]]:
        """The parts with the factors of wide sides."""
        values = (value for side in (self.users, self.items) for value in (side.factors, side.accumulated))
        return [value.parts for value in values if isinstance(value, WideFactors)]


class InitialFactors(NamedTuple):
    """Factors of an earlier training, in the row order of this one."""

    users: Factors | WideFactors
    """float32[n_users, n_columns], zeros for a new user."""
    items: Factors | WideFactors
    are_users_known: NDArray[np.bool_]
    """bool[n_users], whether the earlier training had the user; of a wide side bool[n_blocks], whether it had all users
    of the block."""
    are_items_known: NDArray[np.bool_]

    def of(self, side: Side) -> Factors | WideFactors:
        """Factors of a side."""
        return self.users if side == "user" else self.items


class Algorithm(Protocol):
    """An iterative algorithm: ALS or SGD."""

    @property
    def rank(self) -> int:
        """Number of latent factors."""

    @property
    def n_columns(self) -> int:
        """Columns of the factor matrices: the rank, and one for biases."""

    @property
    def objective(self) -> Objective:
        """The error that training minimizes."""

    @property
    def regularization(self) -> Regularization:
        """The penalty of large factors."""

    def with_mean(self, mean: float) -> "Algorithm":
        """The same algorithm with the mean rating, the baseline of the biases."""

    def compile(self) -> None:
        """Compile the kernels into the cache that executors on this machine read."""

    def start(self, ratings: BlockedRatings, seed: int) -> State:
        """Initial factors; they depend only on the seed and the row."""

    def start_from(self, ratings: BlockedRatings, initial: InitialFactors, seed: int) -> State:
        """The state before the first iteration of a training that starts from the factors of an earlier one."""

    def iterate(self, ratings: BlockedRatings, state: State, label: str) -> State:
        """One iteration over all ratings, and its record; `label` names its work."""


class Checkpoint(NamedTuple):
    """The state that a training needs to continue without a difference."""

    state: State
    best: State
    """The state of the lowest validation RMSE so far; without validation ratings, the last."""


class Checkpoints(Protocol):
    """Storage of a training's checkpoints."""

    @property
    def interval(self) -> int:
        """Iterations from one checkpoint to the next."""

    def load(self, ratings: BlockedRatings, rank: int) -> Checkpoint | None:
        """The last checkpoint of this training, if it has one; wide factors are on the executors again."""

    def keep(self, checkpoint: Checkpoint) -> None:
        """Make this the last checkpoint."""


class UnsolvedRowError(Exception):
    """A row could not be solved; carries the side, the dense index and the problem."""

    def __init__(self, side: Side, index: int, problem: Literal["singular", "overflowed"]) -> None:
        super().__init__(f"{side} {index} {problem}")
        self.side, self.index, self.problem = side, index, problem


@dataclass(frozen=True)
class LoopConfig:
    """When to stop."""

    max_iter: int
    seed: int
    tol: float = 0.0
    """Stop when an iteration lowers the objective by less than this share of it; 0 never stops."""
    patience: int = 0
    """Stop when the validation RMSE has not improved for this many iterations, and keep the best; 0: never."""


@dataclass(frozen=True)
class IterationRecord:
    """The errors and penalties after one iteration, both halves."""

    iteration: int
    squared_error: float
    """Σ w (r − prediction)² over the training ratings; with implicit feedback Σ c (p − prediction)² over all pairs."""
    user_penalty: float
    """λ Σ n |x|², including biases."""
    item_penalty: float
    rmse: float | None
    """√(squared_error / Σ w); None with implicit feedback."""
    validation_rmse: float | None
    """The same for the validation ratings; with implicit feedback, for their preferences, weighted by confidence."""
    seconds: float

    @property
    def penalty(self) -> float:
        """λ Σ n |x|² of both sides."""
        return self.user_penalty + self.item_penalty

    @property
    def objective(self) -> float:
        """The value that training minimizes."""
        return self.squared_error + self.penalty


@dataclass(frozen=True)
class LoopResult:
    """Factors and the course of the loop."""

    user_factors: Factors | WideFactors
    item_factors: Factors | WideFactors
    history: list[IterationRecord]
    stop_reason: str
    """"max_iter", "tol" or "patience"."""
    best_iteration: int
    """The iteration that made these factors."""


def run_loop(
    ratings: BlockedRatings,
    algorithm: Algorithm,
    config: LoopConfig,
    initial: InitialFactors | None = None,
    checkpoints: Checkpoints | None = None,
) -> LoopResult:
    """Iterate until a stop criterion holds, starting from a checkpoint, from given factors or from random ones.

    Writes a checkpoint every `interval` iterations and after the last. Runs on the driver.

    Raises
    ------
    UnsolvedRowError    a normal equation has no unique solution, or factors overflowed
    NumericalError      the objective overflowed, or descent diverged
    ConfigError         the checkpoint has more iterations than max_iter, or other settings
    DataError           the checkpoint has other ratings
    """
    state, best = _first(ratings, algorithm, config, initial, checkpoints)
    while not (stop_reason := _stop_reason(state.history, config)):
        state = algorithm.iterate(ratings, state, f"iteration {len(state.history) + 1}/{config.max_iter}")
        if not math.isfinite(state.history[-1].objective):
            raise NumericalError(
                f"the objective of iteration {len(state.history)} is {state.history[-1].objective}; expected a finite "
                "number; scale ratings and weights down"
            )
        _log_progress(state.history, config.max_iter)
        if _is_best(state.history):
            best = state
        ratings.drop_all_but([*state.wide_parts, *best.wide_parts])
        is_last = _stop_reason(state.history, config) is not None
        if checkpoints is not None and (is_last or len(state.history) % checkpoints.interval == 0):
            checkpoints.keep(Checkpoint(state, best))
    logger.info(
        "stopped after %d iterations: %s",
        len(state.history),
        stop_reason,
        extra={"context": {"stop_reason": stop_reason, "iterations": len(state.history)}},
    )
    chosen = best if config.patience else state
    return LoopResult(chosen.users.factors, chosen.items.factors, state.history, stop_reason, len(chosen.history))


def _first(
    ratings: BlockedRatings,
    algorithm: Algorithm,
    config: LoopConfig,
    initial: InitialFactors | None,
    checkpoints: Checkpoints | None,
) -> Checkpoint:
    """The state from which the loop starts."""
    found = None if checkpoints is None else checkpoints.load(ratings, algorithm.rank)
    if found is None:
        if initial is None:
            state = algorithm.start(ratings, config.seed)
        else:
            state = algorithm.start_from(ratings, initial, config.seed)
        return Checkpoint(state, state)
    n_done = len(found.state.history)
    if n_done > config.max_iter:
        raise ConfigError(
            f"the checkpoint has {n_done} iterations, more than maxIter {config.max_iter}; raise maxIter or use "
            "another checkpointPath"
        )
    logger.info("resuming from the checkpoint of iteration %d", n_done)
    return found


def exact_sum(values: Iterable[float]) -> float:
    """Σ, rounded once; infinite if it overflows float64."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


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
    return "max_iter" if len(history) >= config.max_iter else None


def seconds_left(history: list[IterationRecord], max_iter: int) -> float:
    """Estimated time of the remaining iterations from the last ones; less if training stops early."""
    return statistics.fmean(past.seconds for past in history[-_RECENT:]) * (max_iter - len(history))


def _log_progress(history: list[IterationRecord], max_iter: int) -> None:
    """Log one line; the record's `context` has its numbers, so nobody has to parse it."""
    record = history[-1]
    before = history[-2].objective if len(history) > 1 else 0.0
    to_wait = seconds_left(history, max_iter)
    context = {
        "iteration": record.iteration,
        "max_iter": max_iter,
        "squared_error": record.squared_error,
        "penalty": record.penalty,
        "objective": record.objective,
        "relative_change": (record.objective - before) / before if before else None,
        "rmse": record.rmse,
        "validation_rmse": record.validation_rmse,
        "seconds": record.seconds,
        "seconds_left": to_wait,
    }
    shown = (
        ("objective", "{:.6g}", context["objective"]),
        ("change", "{:+.2%}", context["relative_change"]),
        ("RMSE", "{:.4f}", context["rmse"]),
        ("validation RMSE", "{:.4f}", context["validation_rmse"]),
    )
    logger.info(
        "iteration %d/%d  %s  %.1f s  %s left",
        record.iteration,
        max_iter,
        "  ".join(f"{name} {style.format(value)}" for name, style, value in shown if value is not None),
        record.seconds,
        shown_duration(to_wait),
        extra={"context": context},
    )
