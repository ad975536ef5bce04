"""ALS as the training loop sees it: how one iteration runs, and how one block is solved."""

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast

from mfspark.errors import NumericalError
from mfspark.kernels.als import SolvedRows, solve_exactly
from mfspark.kernels.cg import solve_by_cg
from mfspark.kernels.csr import InBlock, build_packed_block
from mfspark.kernels.equations import Equations
from mfspark.kernels.initial import initial_factors
from mfspark.kernels.loss import squared_error
from mfspark.kernels.nonnegative import solve_nonnegative
from mfspark.kernels.padding import SentPadded, pad_factors, padded_rank
from mfspark.kernels.subspace import solve_by_subspaces
from mfspark.solvers.blocks import BlockedRatings, RatingBlock, Side
from mfspark.solvers.exchange import BlockUpdate, Factors, Source, named_jobs, update_side
from mfspark.solvers.loop import IterationRecord, KnownFactors, SideState, SingularRowError, State
from mfspark.solvers.objective import Explicit, Objective, Regularization, centered, equations, penalties

Method = Literal["cholesky", "cg", "subspace", "nonnegative"]


@dataclass(frozen=True)
class AlternatingLeastSquares:
    """The rows of one side at a time, exactly or nearer to it, the other side held fixed.

    Items are solved first, then users, as in Spark's ALS: with an exact method the user factors are the exact answer
    to the item factors. Each half-iteration is one Spark job.

    Before it the sides are balanced: X s and Y / s predict the same for any s, and the s that makes the two halves of
    the penalty equal makes it least. ALS alone gets there slowly, from iteration to iteration; this way it reached the
    objective of its tenth iteration in the second or third, on MovieLens 20M at rank 64.
    """

    rank: int
    """Number of latent factors; a bias has a column of its own behind them."""
    regularization: Regularization
    objective: Objective
    method: Method = "cholesky"
    cg_steps: int = 3

    @property
    def n_columns(self) -> int:
        """Columns of the factor matrices."""
        return self.rank + self.objective.has_biases

    @property
    def starts_from_old(self) -> bool:
        """Whether `update_block` needs the factors that it replaces."""
        return self.method != "cholesky"

    @property
    def needs_gram(self) -> bool:
        """Whether unobserved pairs count, so that a half-iteration needs Σ y yᵀ of all sources."""
        return self.objective.unobserved_weight > 0

    def start(self, ratings: BlockedRatings, seed: int) -> State:
        """Random directions of length 1, biases of zero."""
        # Two seeds: the sides must not start from the same directions.
        users = self._start_side(ratings, "user", 2 * seed)
        return State(users, self._start_side(ratings, "item", 2 * seed + 1), [])

    def resume(self, ratings: BlockedRatings, known: KnownFactors) -> State:
        """Where a training stands whose factors are known; from there iterations go on as they would have gone.

        Rows that are not known are zeros. Where some of these are users, all users are solved once before: zeros would
        tell the items nothing.
        """
        users = self._measured(ratings, "user", known.users, len(known.items))
        items = self._with_penalty(self._measured(ratings, "item", known.items, len(known.users)))
        if known.has_new_users:
            users, _ = self._solve_side(ratings, "user", items, users, "new users")
        return State(users, items, [])

    def iterate(self, ratings: BlockedRatings, state: State, label: str) -> State:
        """Solve the items, then the users.

        Raises
        ------
        SingularRowError    a normal equation has no unique solution
        NumericalError      factors overflowed or are not numbers
        """
        started = time.monotonic()
        users, items = self.balanced(state.users, state.items)
        items, updates = self._solve_side(ratings, "item", users, items, label)
        if not state.history and users.penalty == 0:
            # Initial rows have length 1. Either side has as many ratings.
            n_penalties = math.fsum(float(update.scales.sum()) for update in updates)
            users = replace(users, penalty=self.regularization.user * n_penalties)
        users, items = self.balanced(users, items)
        items = self._with_penalty(items)
        users, updates = self._solve_side(ratings, "user", items, users, label)
        squared_error = math.fsum(update.squared_error for update in updates)
        weight = math.fsum(update.weight for update in updates)
        validation_error = math.fsum(update.validation_squared_error for update in updates)
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
        """The sides scaled against each other until their penalties are equal; biases stay."""
        if users.penalty == 0 or items.penalty == 0:
            return users, items
        scale = (items.penalty / users.penalty) ** 0.25
        return self._scaled(users, scale), self._scaled(items, 1 / scale)

    def source(self, factors: Factors, gram: NDArray[np.float64] | None) -> Source:
        """What executors need to know of the side that is held fixed. Runs on the driver.

        factors : float32[n_src, n_columns]
        gram : float64[n_columns, n_columns], where it is needed
        """
        biases = None
        if self.objective.has_biases:
            # Its bias is taken off the ratings; the row that is solved finds its own as the factor of a 1.
            biases, factors = factors[:, -1].copy(), factors.copy()
            factors[:, -1] = 1
        padded_gram = None
        if self.needs_gram and gram is not None:
            padded_gram = np.zeros((padded_rank(self.n_columns),) * 2, np.float32)
            padded_gram[: self.n_columns, : self.n_columns] = gram
            padded_gram = padded_gram.ravel()
        return Source(SentPadded(factors), biases, padded_gram)  # type: ignore[arg-type]  # it arrives as a matrix

    def compile(self) -> None:
        """Have the kernels compiled, on one rating, into the cache that executors on this machine read."""
        zero = np.zeros(1, np.int32)
        block = build_packed_block(0, 1, 1, zero, zero, np.zeros(1, np.uint8), np.ones(1, np.float32))
        factors = np.ones((1, self.n_columns), np.float32)
        source = self.source(factors, np.ones((self.n_columns, self.n_columns))).arrived()
        self.update_block("user", RatingBlock(block, block), source, factors)

    def update_block(self, side: Side, block: RatingBlock, source: Source, old_factors: Factors | None) -> BlockUpdate:
        """Solve one block. Runs on executors.

        old_factors : float32[n_dst, n_columns], of all rows of the block's side; None where they are not needed
        """
        train, validation = (centered(self.objective, part.unpack(), source) for part in block)
        system = equations(self.objective, self.regularization, side, self.n_columns, train, source)
        solved = self._solve(train, source.factors, system, old_factors)
        of_columns = system.penalty(solved.factors)
        judged = self.objective.observe(validation)
        return BlockUpdate(
            rows=train.rows,
            factors=solved.factors,
            singular_row=train.first_row + solved.singular_row if solved.singular_row >= 0 else -1,
            scales=system.scales,
            penalty=float(of_columns[: self.rank].sum()),
            bias_penalty=float(of_columns[self.rank :].sum()),
            squared_error=solved.squared_error,
            weight=_total(train, train.weights),
            validation_squared_error=squared_error(validation, pad_factors(solved.factors), source.factors, *judged)
            if validation.src.size
            else 0.0,
            validation_weight=_total(validation, judged.confidence),
            gram=gram_of(solved.factors) if self.needs_gram else None,
        )

    def with_mean(self, mean: float) -> "AlternatingLeastSquares":
        """The same solver, knowing the mean rating."""
        return replace(self, objective=Explicit(has_biases=True, mean=mean))

    def _start_side(self, ratings: BlockedRatings, side: Side, seed: int) -> SideState:
        factors = np.zeros((ratings.n_rows(side), self.n_columns), np.float32)
        factors[:, : self.rank] = initial_factors(seed, len(factors), self.rank)
        if self.method == "nonnegative":
            factors = np.abs(factors)
        return SideState(factors, penalty=0, gram=gram_of(factors) if self.needs_gram else None)

    def _measured(self, ratings: BlockedRatings, side: Side, factors: Factors, n_src: int) -> SideState:
        """The state of a side with these factors. Runs one Spark job, by the blocks that solve the side."""
        context = ratings.rdd.context
        sent = context.broadcast(factors)
        try:
            measure = partial(map, partial(self._measure_block, sent, side, n_src))
            with named_jobs(context, f"resume: {side} factors"):
                parts = context.runJob(ratings.rdd, measure, ratings.partitions(side))
        finally:
            sent.destroy()
        of_factors, of_biases, scales, grams = zip(*parts, strict=True)
        gram = np.sum(grams, axis=0) if self.needs_gram else None
        # Partitions come in the order of their rows.
        return SideState(factors, math.fsum(of_factors), math.fsum(of_biases), gram, scales=np.concatenate(scales))

    def _with_penalty(self, items: SideState) -> SideState:
        """The items with the penalty of their factors as they are, rounded after they were scaled.

        It is then known from the factors alone: a training that is resumed goes on to the same bytes.
        """
        factors = items.factors[:, : self.rank]
        squared_lengths: NDArray[np.float64] = np.einsum("nk,nk->n", factors, factors, dtype=np.float64)
        return replace(items, penalty=self.regularization.item * float(items.scales @ squared_lengths))

    def _measure_block(
        self, sent: "Broadcast[Factors]", side: Side, n_src: int, block: RatingBlock
    ) -> tuple[float, float, NDArray[np.float64], NDArray[np.float64] | None]:
        """Executor: penalty, penalty of the biases, n and Gram matrix of the rows of one block."""
        train = block.train.unpack()
        factors = sent.value[train.rows]
        scales, found = penalties(self.objective, self.regularization, side, train, factors, n_src)
        gram = gram_of(factors) if self.needs_gram else None
        return float(found[: self.rank].sum()), float(found[self.rank :].sum()), scales, gram

    def _scaled(self, side: SideState, scale: float) -> SideState:
        factors = side.factors * np.float32(scale)
        factors[:, self.rank :] = side.factors[:, self.rank :]
        gram = None if side.gram is None else side.gram * scale**2
        return replace(side, factors=factors, penalty=side.penalty * scale**2, gram=gram)

    def _solve_side(
        self, ratings: BlockedRatings, side: Side, fixed: SideState, old: SideState, label: str
    ) -> tuple[SideState, list[BlockUpdate]]:
        """Run one half-iteration."""
        source, old_factors = self.source(fixed.factors, fixed.gram), old.factors if self.starts_from_old else None
        with named_jobs(ratings.rdd.context, f"{label}: solve {side} factors"):
            updates = update_side(ratings, side, source, partial(self.update_block, side), old_factors)
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
        solved = SideState(
            factors,
            math.fsum(update.penalty for update in updates),
            math.fsum(update.bias_penalty for update in updates),
            np.sum([np.asarray(update.gram) for update in updates], axis=0) if self.needs_gram else None,
            scales=np.concatenate([update.scales for update in updates]),
        )
        return solved, updates

    def _solve(
        self, block: InBlock, src_factors: Factors, system: Equations, old_factors: Factors | None
    ) -> SolvedRows:
        if old_factors is None:
            return solve_exactly(block, src_factors, self.n_columns, system)
        old = np.ascontiguousarray(old_factors[block.rows])
        if self.method == "cg":
            return solve_by_cg(block, src_factors, old, system, steps=self.cg_steps)
        if self.method == "subspace":
            return solve_by_subspaces(block, src_factors, old, system)
        return solve_nonnegative(block, src_factors, old, system)


def _total(block: InBlock, weights: NDArray[np.float32] | None) -> float:
    return float(block.src.size if weights is None else weights.sum(dtype=np.float64))


def gram_of(factors: Factors) -> NDArray[np.float64]:
    """Σ x xᵀ over all rows: float32[n, n_columns] to float64[n_columns, n_columns]."""
    doubles = factors.astype(np.float64)
    gram: NDArray[np.float64] = doubles.T @ doubles
    return gram
