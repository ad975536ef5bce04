"""Strata and learning rates, without a JVM."""

import pytest

from mfspark.training.loop import IterationRecord
from mfspark.training.objective import Explicit, Regularization
from mfspark.training.sgd import StochasticGradientDescent, strata


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 8])
def test_strata_are_disjoint_and_cover_all_cells(n_blocks):
    epoch = strata(n_blocks, seed=4, epoch=2)
    for stratum in epoch:
        users, items = zip(*(divmod(cell, n_blocks) for cell in stratum), strict=True)
        assert len(set(users)) == len(set(items)) == n_blocks
    assert sorted(cell for stratum in epoch for cell in stratum) == list(range(n_blocks**2))


def test_order_of_strata_depends_on_seed_and_epoch():
    orders = [tuple(map(tuple, strata(8, seed, epoch))) for seed, epoch in ((1, 1), (1, 1), (1, 2), (2, 1))]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


def rate_after(schedule, objectives):
    solver = StochasticGradientDescent(2, Regularization(0.1, 0.1), Explicit(), 0.2, schedule, 0.5, seed=0)
    history = [IterationRecord(n, value, 0.0, 0.0, None, None, 0.0) for n, value in enumerate(objectives, 1)]
    return solver.learning_rate_of(history)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.2, 0.2, 0.2, 0.2]),
        ("inverse", [0.2, 0.2 / 1.5, 0.2 / 2, 0.2 / 2.5]),
        ("bold", [0.2, 0.2, 0.2 * 1.05, 0.2 * 1.05 * 0.5]),
        ("adagrad", [0.2, 0.2, 0.2, 0.2]),
    ],
)
def test_learning_rate_follows_its_schedule(schedule, rates):
    objectives = [9.0, 8.0, 8.5]
    assert [rate_after(schedule, objectives[:n]) for n in range(4)] == pytest.approx(rates)
