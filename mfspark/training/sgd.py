"""Stochastic gradient descent, distributed by strata of cells that share no factors."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.records import RatingBlock, Side
from mfspark.engine.engine import Parts, Sent, without_targets
from mfspark.errors import NumericalError
from mfspark.kernels.csr import PackedBlock
from mfspark.kernels.initial import initial_factors
from mfspark.kernels.loss import squared_error
from mfspark.kernels.sgd import descend
from mfspark.training.exchange import (
    BlockUpdate,
    FactorRows,
    Factors,
    WideFactors,
    arrived,
    delivered,
    gather_rows,
)
from mfspark.training.loop import InitialFactors, IterationRecord, SideState, State, exact_sum
from mfspark.training.objective import Explicit, Regularization
from mfspark.training.wide import computed, spread, started

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
    rows back; on Spark it is one job. If a side is wide, the factors stay on the executors: those of the users do not
    move, and each stratum sends the items to the users that they meet.
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
        factors = np.ones((1, self.n_columns), np.float32)
        rows = _Part(slice(0, 1), factors, np.zeros((1, 1), np.float32) if self.schedule == "adagrad" else None)
        _descend_cell(self, rows, rows, 0.0, 1, 0, [cell])

    def start(self, ratings: BlockedRatings, seed: int) -> State:
        """Random directions of length 1, biases of zero."""
        # Two seeds: the sides must not start from the same directions.
        users = self._start_side(ratings, "user", 2 * seed)
        return State(users, self._start_side(ratings, "item", 2 * seed + 1), [])

    def start_from(self, ratings: BlockedRatings, initial: InitialFactors, seed: int) -> State:
        """The factors of an earlier training, and random ones for new rows; the schedule restarts."""
        state = self.start(ratings, seed)
        users = self._started_from(ratings, state.users, initial.users, initial.are_users_known, 2 * seed)
        items = self._started_from(ratings, state.items, initial.items, initial.are_items_known, 2 * seed + 1)
        return State(users, items, [])

    def _started_from(
        self,
        ratings: BlockedRatings,
        random: SideState,
        initial: Factors | WideFactors,
        are_known: NDArray[np.bool_],
        seed: int,
    ) -> SideState:
        """The initial factors, with random ones for rows that are unknown."""
        if not isinstance(initial, WideFactors):
            random.matrix[are_known] = initial[are_known]
            return random
        filled = initial.parts.map(partial(_fill_unknown, self._first_rows, seed))
        return replace(random, factors=computed(ratings, replace(initial, parts=filled.keep(is_only_copy=True))))

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
        order = strata(ratings.users.ranges.n_blocks, self.seed, epoch)
        if ratings.users.is_wide or ratings.items.is_wide:
            users, items = self._descend_on_executors(ratings, order, users, items, rate, epoch, label)
        else:
            for number, stratum in enumerate(order, 1):
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

    def _start_side(self, ratings: BlockedRatings, side: Side, seed: int) -> SideState:
        blocks = ratings.of(side)
        n_rows = blocks.ranges.n_rows
        accumulated: Factors | WideFactors | None = None
        if not blocks.is_wide:
            if self.schedule == "adagrad":
                accumulated = _zeros(0, range(n_rows))
            return SideState(self._first_rows(seed, range(n_rows)), penalty=0, accumulated=accumulated)
        factors = WideFactors(started(ratings, side, self._first_rows, seed), n_rows, self.rank)
        if self.schedule == "adagrad":
            accumulated = WideFactors(started(ratings, side, _zeros, 0), n_rows, 1)
        return SideState(factors, penalty=0, accumulated=accumulated)

    def _first_rows(self, seed: int, rows: range) -> Factors:
        factors = np.zeros((len(rows), self.n_columns), np.float32)
        factors[:, : self.rank] = initial_factors(seed, rows, self.rank)
        return factors

    def _descend_stratum(
        self, ratings: BlockedRatings, cells: list[int], users: SideState, items: SideState, rate: float, epoch: int
    ) -> tuple[SideState, SideState]:
        """One stratum, with all factors on the driver."""
        sent = ratings.engine.send(
            _AllFactors(
                ratings.users.ranges.bounds,
                ratings.items.ranges.bounds,
                users.matrix,
                items.matrix,
                users.accumulated,  # type: ignore[arg-type]  # no side is wide
                items.accumulated,  # type: ignore[arg-type]
            )
        )
        shift, n_blocks = _shift_of(cells, ratings), ratings.items.ranges.n_blocks
        try:
            task = partial(_descend_part, self, sent, rate, epoch, shift)
            updates = ratings.cells(shift).run(task, [cell // n_blocks for cell in cells])
        finally:
            sent.drop()
        users, items = (_copy(side) for side in (users, items))
        for update in updates:
            for side, part in ((users, update.users), (items, update.items)):
                side.matrix[part.rows] = part.factors
                if isinstance(side.accumulated, np.ndarray):
                    side.accumulated[part.rows] = part.accumulated
        return users, items

    def _descend_on_executors(
        self,
        ratings: BlockedRatings,
        order: list[list[int]],
        users: SideState,
        items: SideState,
        rate: float,
        epoch: int,
        label: str,
    ) -> tuple[SideState, SideState]:
        """One epoch, with the factors on the executors: users stay in their part, items move to them."""
        n_blocks = ratings.users.ranges.n_blocks
        of_users = _located(ratings, "user", users, self.rank)
        of_items = _located(ratings, "item", items, self.rank)
        held: Parts[Any] | None = None
        for number, stratum in enumerate(order, 1):
            shift = _shift_of(stratum, ratings)
            moved = of_items.exchange(partial(_send_items, shift, n_blocks), n_blocks).map(without_targets)
            task = partial(_descend_located, self, rate, epoch, shift, n_blocks)
            done = moved.beside(of_users).beside(ratings.cells(shift)).map(task).keep(is_only_copy=True)
            ratings.keep(done)
            with ratings.engine.named(f"train: {label}, stratum {number}"):
                done.compute()
            if held is not None:
                held.drop()
            held, of_users, of_items = (
                done,
                done.map(partial(_only_side, "user")),
                done.map(partial(_only_side, "item")),
            )
        with ratings.engine.named(f"train: {label}, factors"):
            users = self._returned(ratings, "user", of_users, users)
            items = self._returned(ratings, "item", of_items, items)
        if held is not None:
            held.drop()
        return users, items

    def _returned(self, ratings: BlockedRatings, side: Side, located: "Parts[_Share]", state: SideState) -> SideState:
        """The state of a side from the shares of its blocks."""
        n_blocks, n_rows = ratings.of(side).ranges.n_blocks, ratings.of(side).ranges.n_rows
        if not ratings.of(side).is_wide:
            parts = sorted((share.part for share in located.collect()), key=lambda part: part.rows.start)
            accumulated = (
                np.concatenate([part.accumulated for part in parts]) if state.accumulated is not None else None
            )
            factors = np.concatenate([part.factors for part in parts])
            return replace(state, factors=factors, accumulated=accumulated)
        at_home = located if side == "user" else located.exchange(_send_home, n_blocks).map(without_targets)
        wide = WideFactors(at_home.map(_factors_of).keep(is_only_copy=True), n_rows, self.rank, is_only_copy=True)
        state = replace(state, factors=computed(ratings, wide))
        if state.accumulated is None:
            return state
        sums = WideFactors(at_home.map(_accumulated_of).keep(is_only_copy=True), n_rows, 1, is_only_copy=True)
        return replace(state, accumulated=computed(ratings, sums))

    def _judge(
        self, ratings: BlockedRatings, users: SideState, items: SideState, epoch: int, started: float
    ) -> tuple[IterationRecord, SideState, SideState]:
        own, sources = (None if isinstance(side.factors, WideFactors) else side.factors for side in (users, items))
        sent = ratings.engine.send((own, sources))
        records: Parts[Any] = ratings.users.parts
        if isinstance(users.factors, WideFactors):
            records = users.factors.parts.beside(records)
        if isinstance(items.factors, WideFactors):
            records = delivered(ratings, "user", items.factors).beside(records)
        try:
            judge = partial(_judge_part, self, sent, ratings.users.ranges.bounds)
            parts = records.run(judge, ratings.users.used)
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
    user_accumulated: Factors | None
    item_accumulated: Factors | None


class _Part(NamedTuple):
    """Rows of one side after a cell."""

    rows: slice
    factors: Factors
    accumulated: Factors | None
    """float32[n_rows, 1]."""


class _CellUpdate(NamedTuple):
    users: _Part
    items: _Part


class _Share(NamedTuple):
    """The rows of a block of one side, on the executors."""

    side: Side
    block: int
    part: _Part


def _shift_of(stratum: list[int], ratings: BlockedRatings) -> int:
    """How far the item block is from the user block in the cells of a stratum."""
    user_block, item_block = divmod(stratum[0], ratings.items.ranges.n_blocks)
    return (item_block - user_block) % ratings.items.ranges.n_blocks


def _zeros(_: int, rows: range) -> Factors:
    """The sums of squared gradients before the first epoch, as factors of rank 1."""
    return np.zeros((len(rows), 1), np.float32)


def _fill_unknown(
    first_rows: Callable[[int, range], Factors], seed: int, _: int, parts: Iterable[FactorRows | BlockUpdate]
) -> Iterator[FactorRows | BlockUpdate]:
    """Executor: initial factors of a wide side in, where an unknown row is zeros; out, with random rows instead."""
    for part in parts:
        is_unknown = np.all(part.factors == 0, axis=1, keepdims=True)
        random = first_rows(seed, range(part.rows.start, part.rows.stop))
        yield FactorRows(part.rows, np.where(is_unknown, random, part.factors))


def _located(ratings: BlockedRatings, side: Side, state: SideState, rank: int) -> Parts[_Share]:
    """The shares of the blocks of a side, in the parts of its blocks; lazy."""
    factors, accumulated = (
        spread(ratings, side, found, of_rank) if isinstance(found, np.ndarray) else found
        for found, of_rank in ((state.factors, rank), (state.accumulated, 1))
    )
    assert isinstance(factors, WideFactors)
    records: Parts[Any] = factors.parts
    if accumulated is not None:
        records = accumulated.parts.map(_as_sums).beside(records)
    return records.map(partial(_share, side))


def _as_sums(_: int, parts: Iterable[FactorRows | BlockUpdate]) -> Iterator[tuple[slice, Factors]]:
    """Executor: sums of squared gradients, told from factors by their type."""
    return ((part.rows, part.factors) for part in parts)


def _share(side: Side, block: int, records: Iterable[Any]) -> Iterator[_Share]:
    """Executor: the sums, if any, and the factors of a block in; its share out."""
    sums: list[tuple[slice, Factors]] = []
    parts: list[FactorRows | BlockUpdate] = []
    for record in records:
        if isinstance(record, FactorRows | BlockUpdate):
            parts.append(record)
        else:
            sums.append(record)
    if parts:
        rows = slice(min(part.rows.start for part in parts), max(part.rows.stop for part in parts))
        accumulated = np.concatenate([found for _, found in sorted(sums, key=lambda s: s[0].start)]) if sums else None
        yield _Share(side, block, _Part(rows, gather_rows(parts, 0, 1.0), accumulated))


def _send_items(shift: int, n_blocks: int, _: int, shares: Iterable[_Share]) -> Iterator[tuple[int, _Share]]:
    """Executor: shares of items, each with the user block that it meets in a stratum."""
    return (((share.block - shift) % n_blocks, share) for share in shares)


def _send_home(_: int, shares: Iterable[_Share]) -> Iterator[tuple[int, _Share]]:
    """Executor: shares, each with its own block."""
    return ((share.block, share) for share in shares)


def _only_side(side: Side, _: int, shares: Iterable[_Share]) -> Iterator[_Share]:
    return (share for share in shares if share.side == side)


def _factors_of(_: int, shares: Iterable[_Share]) -> Iterator[FactorRows | BlockUpdate]:
    return (FactorRows(share.part.rows, share.part.factors) for share in shares)


def _accumulated_of(_: int, shares: Iterable[_Share]) -> Iterator[FactorRows | BlockUpdate]:
    return (FactorRows(share.part.rows, share.part.accumulated) for share in shares)  # type: ignore[arg-type]


def _descend_part(
    algorithm: StochasticGradientDescent,
    sent: Sent[_AllFactors],
    rate: float,
    epoch: int,
    shift: int,
    user_block: int,
    cell: Iterable[PackedBlock],
) -> Iterator[_CellUpdate]:
    """Executor: the records of one cell in; the rows of its users and items out."""
    parts = list(cell)
    if parts:
        everything = sent.value
        n_blocks = len(everything.item_bounds) - 1
        item_block = (user_block + shift) % n_blocks
        users = _rows_of(everything.user_bounds, user_block, everything.users, everything.user_accumulated)
        items = _rows_of(everything.item_bounds, item_block, everything.items, everything.item_accumulated)
        _descend_cell(algorithm, users, items, rate, epoch, user_block * n_blocks + item_block, parts)
        yield _CellUpdate(users, items)


def _rows_of(bounds: NDArray[np.int64], block: int, factors: Factors, accumulated: Factors | None) -> _Part:
    """A copy of the rows of a block."""
    rows = slice(int(bounds[block]), int(bounds[block + 1]))
    return _Part(rows, factors[rows].copy(), None if accumulated is None else accumulated[rows].copy())


def _descend_located(
    algorithm: StochasticGradientDescent,
    rate: float,
    epoch: int,
    shift: int,
    n_blocks: int,
    user_block: int,
    records: Iterable[Any],
) -> Iterator[_Share]:
    """Executor: the shares of one cell, then its records in; its shares after the cell out."""
    shares: dict[Side, _Share] = {}
    parts: list[PackedBlock] = []
    for record in records:
        if isinstance(record, _Share):
            shares[record.side] = record._replace(part=_copied(record.part))
        else:
            parts.append(record)
    if parts:
        cell = user_block * n_blocks + (user_block + shift) % n_blocks
        _descend_cell(algorithm, shares["user"].part, shares["item"].part, rate, epoch, cell, parts)
    yield from shares.values()


def _copied(part: _Part) -> _Part:
    """Arrays that may be written: those of a stored record may not."""
    return part._replace(
        factors=part.factors.copy(), accumulated=None if part.accumulated is None else part.accumulated.copy()
    )


def _descend_cell(
    algorithm: StochasticGradientDescent,
    of_users: _Part,
    of_items: _Part,
    rate: float,
    epoch: int,
    cell: int,
    parts: list[PackedBlock],
) -> None:
    """Update the rows of the users and items of a cell, in place."""
    blocks = [part.unpack() for part in sorted(parts, key=lambda part: part.first_row)]
    users = np.concatenate([np.repeat(np.arange(b.n_rows) + b.first_row, np.diff(b.offsets)) for b in blocks])
    items = np.concatenate([block.src for block in blocks])
    ratings = np.concatenate([block.ratings for block in blocks]) - np.float32(algorithm.objective.mean)
    weights = None if blocks[0].weights is None else np.concatenate([block.weights for block in blocks])
    # Shuffled: in row order, the updates of each user would overwrite those of the users before.
    order = np.random.default_rng([algorithm.seed % 2**63, epoch, cell]).permutation(ratings.size)
    regularization = algorithm.regularization
    descend(
        of_users.factors,
        of_items.factors,
        (users - of_users.rows.start).astype(np.int32)[order],
        (items - of_items.rows.start).astype(np.int32)[order],
        ratings[order],
        None if weights is None else weights[order],
        learning_rate=rate,
        user_regularization=regularization.user,
        item_regularization=regularization.item,
        bias_regularization=regularization.bias if algorithm.objective.has_biases else None,
        user_accumulated=None if of_users.accumulated is None else of_users.accumulated.ravel(),
        item_accumulated=None if of_items.accumulated is None else of_items.accumulated.ravel(),
    )


class _Judged(NamedTuple):
    squared_error: float
    weight: float
    user_penalty: float
    item_penalty: float
    validation_squared_error: float
    validation_weight: float


def _judge_part(
    algorithm: StochasticGradientDescent,
    sent: Sent[tuple[Factors | None, Factors | None]],
    bounds: NDArray[np.int64],
    part: int,
    records: Iterable[Any],
) -> Iterator[tuple[int, _Judged]]:
    """Executor: the digest of each block and its share in the objective."""
    all_users, items = sent.value
    own, sources, blocks = arrived(0, 1.0, records)
    first_row = 0 if own is None else int(bounds[part])
    for block in blocks:
        rows = slice(block.train.first_row - first_row, block.train.first_row - first_row + block.train.row_sizes.size)
        found = all_users if own is None else own, items if sources is None else sources
        yield block.digest, _judge_block(algorithm, found[0][rows], found[1], block)  # type: ignore[index, arg-type]


def _judge_block(algorithm: StochasticGradientDescent, own: Factors, items: Factors, block: RatingBlock) -> _Judged:
    train, validation = block.train.unpack(), block.validation.unpack()
    users, sources = own, items
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
    of_user = _row_penalties(own, algorithm.rank, lambdas.user, lambdas.bias)
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
    accumulated = side.accumulated.copy() if isinstance(side.accumulated, np.ndarray) else None
    return replace(side, factors=side.matrix.copy(), accumulated=accumulated)
