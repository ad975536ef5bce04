"""ALS: one iteration solves the items, then the users."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.records import OTHER, RatingBlock, Side
from mfspark.kernels.initial import initial_factors
from mfspark.training.exchange import (
    BlockUpdate,
    FactorRows,
    Factors,
    RowSums,
    WideFactors,
    gather_rows,
    update_side,
)
from mfspark.training.loop import InitialFactors, IterationRecord, SideState, State, UnsolvedRowError, exact_sum
from mfspark.training.objective import Explicit, lambdas_of, scales_of
from mfspark.training.rows import RowSolver, gram_of
from mfspark.training.wide import started

# Limit for the ratio of the penalties: its fourth root, which scales the factors, still fits float32.
_LARGEST_RATIO = 1e150

# Initial rows have length 1, and are shorter if λ is below the first number, down to the length for the second.
_LAMBDA_OF_LENGTH_1 = 0.1
_LEAST_LAMBDA = 1e-7


@dataclass(frozen=True)
class AlternatingLeastSquares(RowSolver):
    """Solves the rows of one side, with the other side fixed, then swaps the sides.

    It solves items first, then users, like Spark's ALS: with an exact solver the user factors are exact for the item
    factors. On Spark each half-iteration is one job.

    Before it the sides are balanced: X s and Y / s predict the same for any s, and the s that makes the two halves of
    the penalty equal makes it least. ALS alone gets there slowly, from iteration to iteration; this way it reached the
    objective of its tenth iteration in the second or third, on MovieLens 20M at rank 64.
    """

    @property
    def initial_length(self) -> float:
        """Length of the initial rows: 1, as in Spark's ALS; with λ below 0.1 less, so that it weighs as much as 0.1.

        The first items are solved from random users. With a small λ they fit the ratings by chance, and later
        iterations take long to undo that: on few ratings the held-out error was above that of Spark's ALS
        (scripts/bench_heldout.py).
        """
        regularization = min(max(self.regularization.item, _LEAST_LAMBDA), _LAMBDA_OF_LENGTH_1)
        return math.sqrt(regularization / _LAMBDA_OF_LENGTH_1)

    def start(self, ratings: BlockedRatings, seed: int) -> State:
        """Random directions of the initial length, biases of zero."""
        # Two seeds: the sides must not start from the same directions.
        users = self._start_side(ratings, "user", 2 * seed)
        return State(users, self._start_side(ratings, "item", 2 * seed + 1), [])

    def start_from(self, ratings: BlockedRatings, initial: InitialFactors, seed: int) -> State:  # noqa: ARG002
        """The state with the factors of an earlier training; iterations continue exactly as that training would.

        Unknown rows are zeros. If some users are unknown, all users are solved once first, because items cannot be
        solved from zeros.
        """
        users, items = (self._measured(ratings, side, initial.of(side)) for side in OTHER)
        items = self._with_penalty(items)
        if not initial.are_users_known.all():
            users, _ = self._solve_side(ratings, "user", items, users, "initial model")
        return State(users, items, [])

    def iterate(self, ratings: BlockedRatings, state: State, label: str) -> State:
        """Solve the items, then the users.

        Raises
        ------
        UnsolvedRowError    a normal equation has no unique solution, or its solution is too large for float32
        """
        started = time.monotonic()
        users, items = self.balanced(state.users, state.items)
        items, _ = self._solve_side(ratings, "item", users, items, label)
        if not state.history and users.penalty == 0:
            # Initial rows have the same length, and both sides have the same number of ratings.
            squared_lengths = float(items.scales.sum()) * self.initial_length**2
            users = replace(users, penalty=self.regularization.user * squared_lengths)
        users, items = self.balanced(users, items)
        items = self._with_penalty(items)
        users, updates = self._solve_side(ratings, "user", items, users, label)
        # A weighted error is a difference of sums; for a perfect fit, rounding can make it negative.
        squared_error = max(exact_sum(update.squared_error for update in updates), 0.0)
        weight = math.fsum(update.weight for update in updates)
        validation_error = exact_sum(update.validation_squared_error for update in updates)
        validation_weight = math.fsum(update.validation_weight for update in updates)
        record = IterationRecord(
            iteration=len(state.history) + 1,
            squared_error=squared_error,
            user_penalty=users.penalty + users.bias_penalty,
            item_penalty=items.penalty + items.bias_penalty,
            rmse=math.sqrt(squared_error / weight) if self.objective.is_rmse_known and weight else None,
            validation_rmse=math.sqrt(validation_error / validation_weight) if validation_weight else None,
            seconds=time.monotonic() - started,
        )
        return State(users, items, [*state.history, record])

    def balanced(self, users: SideState, items: SideState) -> tuple[SideState, SideState]:
        """Scale the sides so that their penalties are equal; biases stay unchanged."""
        ratio = items.penalty / users.penalty if users.penalty else 0.0
        if not 1 / _LARGEST_RATIO < ratio < _LARGEST_RATIO:
            return users, items
        scale = ratio**0.25
        return self._scaled(users, scale), self._scaled(items, 1 / scale)

    def with_mean(self, mean: float) -> "AlternatingLeastSquares":
        """The same algorithm with the mean rating."""
        return replace(self, objective=Explicit(has_biases=True, mean=mean))

    def _start_side(self, ratings: BlockedRatings, side: Side, seed: int) -> SideState:
        blocks = ratings.of(side)
        if not blocks.is_wide:
            factors = self._first_rows(seed, range(blocks.ranges.n_rows))
            return SideState(factors, penalty=0, gram=gram_of(factors) if self.needs_gram else None)
        parts = started(ratings, side, self._first_rows, seed)
        gram = parts.map(_grams).reduce(np.add) if self.needs_gram else None
        return SideState(WideFactors(parts, blocks.ranges.n_rows, self.rank), penalty=0, gram=gram)

    def _first_rows(self, seed: int, rows: range) -> Factors:
        factors = np.zeros((len(rows), self.n_columns), np.float32)
        factors[:, : self.rank] = initial_factors(seed, rows, self.rank) * np.float32(self.initial_length)
        return np.abs(factors) if self.solver == "nonnegative" else factors

    def _measured(self, ratings: BlockedRatings, side: Side, factors: Factors | WideFactors) -> SideState:
        """The state of a side with these factors. One task for each block that solves the side."""
        blocks = ratings.of(side)
        measure = partial(self._measure, side, ratings.of(OTHER[side]).ranges.n_rows)
        with ratings.engine.named(f"train: initial model, {side}s"):
            if isinstance(factors, WideFactors):
                of_blocks = partial(self._measure_blocks, measure, blocks.ranges.bounds)
                parts = factors.parts.beside(blocks.parts).run(of_blocks)
            else:
                counted = _merged(blocks.parts.run(self._count_blocks, blocks.used))
                parts = [measure(part.n_counted, factors[part.rows]) for part in counted]
        return SideState(
            factors,
            exact_sum(float(part.of_columns[: self.rank].sum()) for part in parts),
            exact_sum(float(part.of_columns[self.rank :].sum()) for part in parts),
            np.sum([np.asarray(part.gram) for part in parts], axis=0) if self.needs_gram else None,
            scales=np.concatenate([part.scales for part in parts]),
        )

    def _measure(self, side: Side, n_src: int, n_counted: NDArray[np.float64], rows: Factors) -> "_Measured":
        scales = scales_of(self.objective, self.regularization, n_counted, n_src)
        lambdas = lambdas_of(self.objective, self.regularization, side, self.n_columns)
        of_columns = lambdas[: self.n_columns] * (scales @ np.square(rows, dtype=np.float64))
        return _Measured(scales, of_columns, gram_of(rows) if self.needs_gram else None)

    def _measure_blocks(
        self, measure: "partial[_Measured]", bounds: NDArray[np.int64], part: int, records: Iterable[Any]
    ) -> "Iterator[_Measured]":
        """Executor: the factors and ratings of one block of a wide side in; the sum of its scales out."""
        arrived = list(records)
        rows = [record for record in arrived if not isinstance(record, RatingBlock)]
        if rows:
            factors = gather_rows(rows, self.rank, scale=1)
            for counted in self._count_blocks(part, (block for block in arrived if isinstance(block, RatingBlock))):
                start, stop = (row - int(bounds[part]) for row in (counted.rows.start, counted.rows.stop))
                found = measure(counted.n_counted, factors[start:stop])
                yield found._replace(scales=found.scales.sum(keepdims=True))

    def _count_blocks(self, _: int, blocks: Iterable[RatingBlock]) -> "Iterator[_Counted]":
        """Executor: the number of ratings of each row that λ counts."""
        for block in blocks:
            train = block.train.unpack()
            yield _Counted(train.rows, self.objective.n_counted(train))

    def _with_penalty(self, items: SideState) -> SideState:
        """The items with the penalty of their scaled and rounded factors.

        So the penalty depends on the factors only, and a resumed training gives the same bytes. Factors of a wide side
        are scaled when they are used.
        """
        if isinstance(items.factors, WideFactors):
            return items
        factors = items.factors[:, : self.rank]
        squared_lengths: NDArray[np.float64] = np.einsum("nk,nk->n", factors, factors, dtype=np.float64)
        return replace(items, penalty=self.regularization.item * float(items.scales @ squared_lengths))

    def _scaled(self, side: SideState, scale: float) -> SideState:
        factors: Factors | WideFactors
        if isinstance(side.factors, WideFactors):
            factors = replace(side.factors, scale=side.factors.scale * scale)
        else:
            rows = side.matrix * np.float32(scale)
            rows[:, self.rank :] = side.matrix[:, self.rank :]
            factors = rows
        gram = None if side.gram is None else side.gram * scale**2
        return replace(side, factors=factors, penalty=side.penalty * scale**2, gram=gram)

    def _solve_side(
        self, ratings: BlockedRatings, side: Side, fixed: SideState, old: SideState, label: str
    ) -> tuple[SideState, list[BlockUpdate]]:
        """Run one half-iteration."""
        with ratings.engine.named(f"train: {label}, {side}s"):
            found, wide = update_side(ratings, side, self, fixed.factors, fixed.gram, old.factors)
        updates = self._completed(side, found, len(fixed.factors), fixed.gram)
        singular = [done.singular_row for done in updates if done.singular_row >= 0]
        if singular:
            raise UnsolvedRowError(side, min(singular), "singular")
        overflowed = [done.overflowed_row for done in updates if done.overflowed_row >= 0]
        if overflowed:
            raise UnsolvedRowError(side, min(overflowed), "overflowed")
        penalty = exact_sum(update.penalty for update in updates)
        bias_penalty = exact_sum(update.bias_penalty for update in updates)
        rows = np.concatenate([update.factors for update in updates])
        gram = np.sum([np.asarray(update.gram) for update in updates], axis=0) if self.needs_gram else None
        scales = np.concatenate([update.scales for update in updates])
        return SideState(wide or rows, penalty, bias_penalty, gram, scales=scales), updates

    def _completed(
        self, side: Side, found: list[BlockUpdate | RowSums], n_src: int, gram: NDArray[np.float64] | None
    ) -> list[BlockUpdate]:
        """Updates of whole rows; rows whose parts were summed are solved here."""
        return [
            update if isinstance(update, BlockUpdate) else self.update_row(side, update, n_src, gram)
            for update in _merged(found)
        ]


class _Measured(NamedTuple):
    """What the state of a side needs to know of some of its rows."""

    scales: NDArray[np.float64]
    """float64[n_rows], or their sum."""
    of_columns: NDArray[np.float64]
    """float64[n_columns], λ Σ n x² of each column."""
    gram: NDArray[np.float64] | None


class _Counted(NamedTuple):
    rows: slice
    n_counted: NDArray[np.float64]
    """float64[n_rows]."""

    def plus(self, other: "_Counted") -> "_Counted":
        return self._replace(n_counted=self.n_counted + other.n_counted)


_Part = TypeVar("_Part", BlockUpdate | RowSums, _Counted)


def _merged(records: Iterable[_Part]) -> list[_Part]:
    """Join consecutive parts of the same row."""
    merged: list[_Part] = []
    for record in records:
        if merged and merged[-1].rows == record.rows:
            merged[-1] = merged[-1].plus(record)  # type: ignore[union-attr, arg-type]  # only parts share rows
        else:
            merged.append(record)
    return merged


def _grams(_: int, parts: Iterable[FactorRows | BlockUpdate]) -> Iterator[NDArray[np.float64]]:
    """Executor: the Gram matrix of the rows of one block."""
    return (gram_of(part.factors) for part in parts)
