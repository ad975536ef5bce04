"""Stochastic gradient descent, distributed by strata of cells that share no factors."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.records import RatingBlock
from mfspark.engine.engine import Sent
from mfspark.errors import NumericalError
from mfspark.kernels.csr import PackedBlock
from mfspark.kernels.initial import initial_factors
from mfspark.kernels.loss import squared_error
from mfspark.kernels.sgd import descend
from mfspark.training.exchange import Factors
from mfspark.training.loop import InitialFactors, IterationRecord, SideState, State, exact_sum
from mfspark.training.objective import Explicit, Regularization

Schedule = Literal["constant", "inverse", "bold", "adagrad"]

# Bold driver: the rate grows after an epoch that lowers the objective and shrinks after one that raises it.
_FASTER, _SLOWER = 1.05, 0.5
# Training has diverged if the objective is this many times the one before or after the first epoch.
_DIVERGED = 10.0


@dataclass(frozen=True)
class StochasticGradientDescent:
    """Distributed stratified SGD (Gemulla, Nijkamp, Haas, Sismanis, KDD 2011, section 4).

    Users and items are cut into the same number of ranges; a cell is a range of users by a range of items. No two cells
    of a stratum share a user or an item. So its cells run in parallel and their order does not change the result. The
    strata of an epoch cover all cells. Each stratum sends all factors to its tasks, one per cell, and gets the cell's
    rows back; on Spark it is one job.
    """

    rank: int
    regularization: Regularization
    objective: Explicit
    learning_rate: float
    """η of the first epoch."""
    schedule: Schedule
    """η of epoch t: "constant"; "inverse": η / (1 + decay·(t − 1)); "bold": 5 % more after an epoch that lowered the
    objective, else half; "adagrad": per row, by its gradients so far."""
    decay: float
    seed: int

    @property
    def n_columns(self) -> int:
        """Columns of the factor matrices."""
        return self.rank + self.objective.has_biases

    def with_mean(self, mean: float) -> "StochasticGradientDescent":
        """The same algorithm with the mean rating."""
        return replace(self, objective=Explicit(has_biases=True, mean=mean))

    def compile(self) -> None:
        """Compile the kernel on one rating, into the cache that executors on this machine read."""
        zero, one = np.zeros(1, np.int32), np.ones(1, np.uint32)
        cell = PackedBlock(0, one, zero, np.zeros(1, np.uint8), np.ones(1, np.float32))
        bounds, factors = np.array([0, 1]), np.ones((1, self.n_columns), np.float32)
        accumulated = np.zeros(1, np.float32) if self.schedule == "adagrad" else None
        _descend_cell(self, _AllFactors(bounds, bounds, factors, factors, accumulated, accumulated), 0.0, 1, 0, [cell])

    def start(self, ratings: BlockedRatings, seed: int) -> State:
        """Random directions of length 1, biases of zero."""
        # Two seeds: the sides must not start from the same directions.
        users = self._start_side(ratings.users.ranges.n_rows, 2 * seed)
        return State(users, self._start_side(ratings.items.ranges.n_rows, 2 * seed + 1), [])

    def start_from(self, ratings: BlockedRatings, initial: InitialFactors, seed: int) -> State:
        """The factors of an earlier training, and random ones for new rows; the schedule restarts."""
        state = self.start(ratings, seed)
        for side, factors, are_known in (
            (state.users, initial.users, initial.are_users_known),
            (state.items, initial.items, initial.are_items_known),
        ):
            assert isinstance(factors, np.ndarray)  # no side is wide
            side.matrix[are_known] = factors[are_known]
        return state

    def iterate(self, ratings: BlockedRatings, state: State, label: str) -> State:
        """One epoch: all strata, then the objective.

        Raises
        ------
        NumericalError    the factors are no longer finite, or training diverged
        """
        started = time.monotonic()
        epoch = len(state.history) + 1
        rate = self.learning_rate_of(state.history)
        users, items = state.users, state.items
        if state.history:
            first = state.history[0].objective
        else:
            with ratings.engine.named(f"train: {label}, objective before"):
                first = self._judge(ratings, users, items, 0, started)[0].objective
        for number, stratum in enumerate(strata(ratings.users.ranges.n_blocks, self.seed, epoch), 1):
            with ratings.engine.named(f"train: {label}, stratum {number}"):
                users, items = self._descend_stratum(ratings, stratum, users, items, rate, epoch)
        with ratings.engine.named(f"train: {label}, objective"):
            record, users, items = self._judge(ratings, users, items, epoch, started)
        if not record.objective <= _DIVERGED * first:
            raise NumericalError(
                f"SGD diverged in epoch {epoch} (objective {record.objective:.4g}, learning rate {rate:g}); lower "
                "learningRate or choose another schedule"
            )
        return State(users, items, [*state.history, record])

    def learning_rate_of(self, history: list[IterationRecord]) -> float:
        """η of the epoch after these."""
        if self.schedule == "inverse":
            return self.learning_rate / (1 + self.decay * len(history))
        if self.schedule == "bold":
            rate = self.learning_rate
            for before, after in pairwise(history):
                rate *= _FASTER if after.objective < before.objective else _SLOWER
            return rate
        return self.learning_rate

    def _start_side(self, n_rows: int, seed: int) -> SideState:
        factors = np.zeros((n_rows, self.n_columns), np.float32)
        factors[:, : self.rank] = initial_factors(seed, range(n_rows), self.rank)
        accumulated = np.zeros(n_rows, np.float32) if self.schedule == "adagrad" else None
        return SideState(factors, penalty=0, accumulated=accumulated)

    def _descend_stratum(
        self, ratings: BlockedRatings, cells: list[int], users: SideState, items: SideState, rate: float, epoch: int
    ) -> tuple[SideState, SideState]:
        sent = ratings.engine.send(
            _AllFactors(
                ratings.users.ranges.bounds,
                ratings.items.ranges.bounds,
                users.matrix,
                items.matrix,
                users.accumulated,
                items.accumulated,
            )
        )
        try:
            updates = ratings.cells.run(partial(_descend_part, self, sent, rate, epoch), cells)
        finally:
            sent.drop()
        users, items = (_copy(side) for side in (users, items))
        for update in updates:
            for side, part in ((users, update.users), (items, update.items)):
                side.matrix[part.rows] = part.factors
                if side.accumulated is not None:
                    side.accumulated[part.rows] = part.accumulated
        return users, items

    def _judge(
        self, ratings: BlockedRatings, users: SideState, items: SideState, epoch: int, started: float
    ) -> tuple[IterationRecord, SideState, SideState]:
        sent = ratings.engine.send((users.matrix, items.matrix))
        try:
            parts = ratings.users.parts.run(partial(_judge_part, self, sent), ratings.users.used)
        finally:
            sent.drop()
        ratings.require_same(digest for digest, _judged in parts)
        judged = (of_block for _digest, of_block in parts)
        total = _Judged(*(exact_sum(values) for values in zip(*judged, strict=True)))
        record = IterationRecord(
            iteration=epoch,
            squared_error=total.squared_error,
            user_penalty=total.user_penalty,
            item_penalty=total.item_penalty,
            rmse=math.sqrt(total.squared_error / total.weight),
            validation_rmse=math.sqrt(total.validation_squared_error / total.validation_weight)
            if total.validation_weight
            else None,
            seconds=time.monotonic() - started,
        )
        return record, replace(users, penalty=total.user_penalty), replace(items, penalty=total.item_penalty)


def strata(n_blocks: int, seed: int, epoch: int) -> list[list[int]]:
    """The cell numbers of each stratum of an epoch: cell p·n_blocks + q is user block p by item block q.

    Stratum s pairs user block p with item block (p + s) mod n_blocks; the order of the strata depends on the seed and
    the epoch.
    """
    order = np.random.default_rng([seed % 2**63, epoch]).permutation(n_blocks)
    return [[p * n_blocks + int(p + shift) % n_blocks for p in range(n_blocks)] for shift in order]


class _AllFactors(NamedTuple):
    """The factors and ranges of both sides; sent to all tasks."""

    user_bounds: NDArray[np.int64]
    item_bounds: NDArray[np.int64]
    users: Factors
    items: Factors
    user_accumulated: NDArray[np.float32] | None
    item_accumulated: NDArray[np.float32] | None


class _Part(NamedTuple):
    """Rows of one side after a cell."""

    rows: slice
    factors: Factors
    accumulated: NDArray[np.float32] | None


class _CellUpdate(NamedTuple):
    users: _Part
    items: _Part


def _descend_part(
    algorithm: StochasticGradientDescent,
    sent: Sent[_AllFactors],
    rate: float,
    epoch: int,
    _: int,
    cells: Iterable[tuple[int, PackedBlock]],
) -> Iterator[_CellUpdate]:
    """Executor: the records of one cell in; the rows of its users and items out."""
    arrived = list(cells)
    if arrived:
        # A shuffle delivers them in any order.
        parts = sorted((cell for _number, cell in arrived), key=lambda cell: cell.first_row)
        yield _descend_cell(algorithm, sent.value, rate, epoch, arrived[0][0], parts)


def _descend_cell(
    algorithm: StochasticGradientDescent,
    sent: _AllFactors,
    rate: float,
    epoch: int,
    cell: int,
    parts: list[PackedBlock],
) -> _CellUpdate:
    user_block, item_block = divmod(cell, len(sent.item_bounds) - 1)
    user_rows, item_rows = (
        slice(int(bounds[block]), int(bounds[block + 1]))
        for bounds, block in ((sent.user_bounds, user_block), (sent.item_bounds, item_block))
    )
    blocks = [part.unpack() for part in parts]
    users = np.concatenate([np.repeat(np.arange(b.n_rows) + b.first_row, np.diff(b.offsets)) for b in blocks])
    items = np.concatenate([block.src for block in blocks])
    ratings = np.concatenate([block.ratings for block in blocks]) - np.float32(algorithm.objective.mean)
    weights = None if blocks[0].weights is None else np.concatenate([block.weights for block in blocks])
    # Shuffled: in row order, the updates of each user would overwrite those of the users before.
    order = np.random.default_rng([algorithm.seed % 2**63, epoch, cell]).permutation(ratings.size)
    in_users = _Part(user_rows, sent.users[user_rows].copy(), _copied(sent.user_accumulated, user_rows))
    in_items = _Part(item_rows, sent.items[item_rows].copy(), _copied(sent.item_accumulated, item_rows))
    regularization = algorithm.regularization
    descend(
        in_users.factors,
        in_items.factors,
        (users - user_rows.start).astype(np.int32)[order],
        (items - item_rows.start).astype(np.int32)[order],
        ratings[order],
        None if weights is None else weights[order],
        learning_rate=rate,
        user_regularization=regularization.user,
        item_regularization=regularization.item,
        bias_regularization=regularization.bias if algorithm.objective.has_biases else None,
        user_accumulated=in_users.accumulated,
        item_accumulated=in_items.accumulated,
    )
    return _CellUpdate(in_users, in_items)


def _copied(values: NDArray[np.float32] | None, rows: slice) -> NDArray[np.float32] | None:
    return None if values is None else values[rows].copy()


class _Judged(NamedTuple):
    squared_error: float
    weight: float
    user_penalty: float
    item_penalty: float
    validation_squared_error: float
    validation_weight: float


def _judge_part(
    algorithm: StochasticGradientDescent, sent: Sent[tuple[Factors, Factors]], _: int, blocks: Iterable[RatingBlock]
) -> Iterator[tuple[int, _Judged]]:
    """Executor: the digest of each block and its share in the objective."""
    all_users, items = sent.value
    return ((block.digest, _judge_block(algorithm, all_users, items, block)) for block in blocks)


def _judge_block(
    algorithm: StochasticGradientDescent, all_users: Factors, items: Factors, block: RatingBlock
) -> _Judged:
    train, validation = block.train.unpack(), block.validation.unpack()
    users = all_users[train.rows]
    sources = items
    if algorithm.objective.has_biases:
        # Each row gets a 1 next to the other side's bias, so the product adds the biases.
        users = np.column_stack([users, np.ones(len(users), np.float32)])
        sources = np.column_stack([items[:, :-1], np.ones(len(items), np.float32), items[:, -1]])
    mean = np.float32(algorithm.objective.mean)
    errors = [
        squared_error(part, users, sources, part.ratings - mean, part.weights) if part.src.size else 0.0
        for part in (train, validation)
    ]
    counts = [
        float(part.src.size if part.weights is None else part.weights.sum(dtype=np.float64))
        for part in (train, validation)
    ]
    weights = np.ones(train.src.size) if train.weights is None else train.weights.astype(np.float64)
    lambdas = algorithm.regularization
    of_user = _row_penalties(all_users[train.rows], algorithm.rank, lambdas.user, lambdas.bias)
    of_item = _row_penalties(items, algorithm.rank, lambdas.item, lambdas.bias)
    return _Judged(
        errors[0],
        counts[0],
        float(train.row_sums(train.weights) @ of_user),
        float(weights @ of_item[train.src]),
        errors[1],
        counts[1],
    )


def _row_penalties(factors: Factors, rank: int, regularization: float, of_bias: float) -> NDArray[np.float64]:
    squares = np.square(factors, dtype=np.float64)
    penalties: NDArray[np.float64] = regularization * squares[:, :rank].sum(axis=1) + of_bias * squares[:, rank:].sum(
        axis=1
    )
    return penalties


def _copy(side: SideState) -> SideState:
    accumulated = None if side.accumulated is None else side.accumulated.copy()
    return replace(side, factors=side.matrix.copy(), accumulated=accumulated)
