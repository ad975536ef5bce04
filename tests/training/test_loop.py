"""What the training loop does on the driver, without a JVM."""

import logging
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from mfspark import ALS, SGD
from mfspark.errors import NumericalError
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.loop import IterationRecord, LoopConfig, SideState, State, exact_sum, run_loop, seconds_left
from mfspark.training.objective import Explicit, Implicit, Regularization
from tests.builders import random_ratings
from tests.local import columns_of, fit_without_spark

USERS, ITEMS, VALUES = random_ratings(seed=5, n_users=31, n_items=17, n_ratings=200)
X, Y = np.array([[3.0, 1.0], [0.5, 2.0]], np.float32), np.array([[0.1, 0.2]], np.float32)
N_USER, N_ITEM = np.array([1, 1]), np.array([2])


def solver_of(rank, solver="cholesky", objective=None, **params):
    return AlternatingLeastSquares(rank, Regularization(0.1, 0.1), objective or Explicit(), solver, **params)


def side(factors, n_ratings):
    return SideState(factors, 0.1 * float(n_ratings @ np.square(factors, dtype=np.float64).sum(axis=1)))


def test_balanced_sides_predict_the_same_with_equal_and_least_penalties():
    users, items = solver_of(2).balanced(side(X, N_USER), side(Y, N_ITEM))
    np.testing.assert_allclose(users.factors @ items.factors.T, X @ Y.T, rtol=1e-6)
    assert users.penalty == pytest.approx(items.penalty)
    for state, n_ratings in ((users, N_USER), (items, N_ITEM)):
        assert state.penalty == pytest.approx(side(state.factors, n_ratings).penalty, rel=1e-6)
    # Σ n |x|² = 14.25 and Σ n |y|² = 0.1: the least sum over all scales is 2 √(14.25 · 0.1).
    assert users.penalty + items.penalty == pytest.approx(0.1 * 2 * (14.25 * 0.1) ** 0.5, rel=1e-6)


def test_balance_leaves_biases_alone_and_scales_the_gram_matrix():
    users = SideState(X, 4.0, 7.0, X.T.astype(np.float64) @ X)
    items = SideState(Y, 0.25, 0.0)
    scaled, _ = solver_of(1, objective=Explicit(has_biases=True)).balanced(users, items)
    np.testing.assert_allclose(scaled.factors, X * [0.5, 1])
    assert (scaled.penalty, scaled.bias_penalty) == (1, 7)
    scaled, _ = solver_of(2, objective=Implicit(1.0)).balanced(users, items)
    np.testing.assert_allclose(scaled.gram, scaled.factors.T @ scaled.factors)


@pytest.mark.parametrize(("users", "items"), [(SideState(X, 0), SideState(Y, 1)), (SideState(X, 1), SideState(Y, 0))])
def test_without_a_penalty_there_is_nothing_to_balance(users, items):
    assert solver_of(2).balanced(users, items) == (users, items)


@pytest.mark.parametrize(
    ("regularization", "length"), [(10.0, 1.0), (0.1, 1.0), (0.025, 0.5), (0.001, 0.1), (1e-9, 0.001), (0.0, 0.001)]
)
def test_initial_rows_are_so_short_that_lambda_weighs_a_tenth(regularization, length):
    # λ |y|² beside rows x of length l weighs as much as (λ / l²) |y|² beside rows x / l of length 1.
    solver = AlternatingLeastSquares(3, Regularization(0.7, regularization), Explicit(), "cholesky")
    assert solver.initial_length == pytest.approx(length)


@pytest.mark.parametrize("method", ["cholesky", "cg", "subspace", "nonnegative"])
def test_compiling_solves_one_rating_as_a_block_would_be(method, monkeypatch):
    called = []
    original = AlternatingLeastSquares.update_block
    monkeypatch.setattr(
        AlternatingLeastSquares,
        "update_block",
        lambda solver, *block: called.append(original(solver, *block)) or called[-1],
    )
    solver_of(3, method).compile()
    (update,) = called
    assert update.singular_row == -1
    # One rating of 1 and source factors of 1: x = 1 / (3 + 0.1) in each column.
    np.testing.assert_allclose(update.factors, np.full((1, 3), 1 / 3.1), rtol=1e-5)


@pytest.mark.parametrize("penalties", [(1e308, 1e-320), (1e-320, 1e308), (np.inf, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_sides_that_no_float32_balances_stay_as_they_are(penalties):
    sides = SideState(X, penalties[0]), SideState(Y, penalties[1])
    assert solver_of(2).balanced(*sides) == sides


def test_error_that_rounding_took_below_zero_is_none(monkeypatch):
    rounded = SimpleNamespace(squared_error=-1e-7, weight=3.0, validation_squared_error=0.0, validation_weight=0.0)
    solver, state = solver_of(2), State(side(X, N_USER), side(Y, N_ITEM), [])
    monkeypatch.setattr(
        AlternatingLeastSquares, "_solve_side", lambda *_: (replace(state.items, scales=N_ITEM), [rounded])
    )
    (record,) = solver.iterate(SimpleNamespace(mean_rating=1.0), state, "").history
    assert (record.squared_error, record.rmse) == (0.0, 0.0)


def test_sum_beyond_float64_is_infinite():
    assert exact_sum([1e308, 1e308]) == np.inf
    assert exact_sum([1e16, 1.0, -1e16]) == 1.0


class Descent:
    """A solver without a JVM, with the objectives and validation errors that it is given."""

    def __init__(self, objectives, seconds=2.0):
        self.objectives, self.seconds = objectives, seconds

    def start(self, *_):
        return State(side(X, N_USER), side(Y, N_ITEM), [])

    def iterate(self, _ratings, state, _label):
        number = len(state.history)
        record = IterationRecord(number + 1, self.objectives[number] - 1, 0.5, 0.5, 0.75, None, self.seconds)
        return replace(state, history=[*state.history, record])


def progress_of(caplog, solver, **config):
    ratings = SimpleNamespace(drop_all_but=lambda _: None)
    with caplog.at_level(logging.INFO, "mfspark"):
        run_loop(ratings, solver, LoopConfig(seed=0, **config))
    return caplog.records


def test_each_iteration_is_a_line_and_its_numbers(caplog):
    *lines, stopped = progress_of(caplog, Descent([200.0, 150.0, 150.0]), max_iter=3)
    assert [line.getMessage() for line in lines] == [
        "iteration 1/3  objective 200  RMSE 0.7500  2.0 s  4 s left",
        "iteration 2/3  objective 150  change -25.00%  RMSE 0.7500  2.0 s  2 s left",
        "iteration 3/3  objective 150  change +0.00%  RMSE 0.7500  2.0 s  0 s left",
    ]
    assert lines[1].context == {
        "iteration": 2, "max_iter": 3, "squared_error": 149.0, "penalty": 1.0, "objective": 150.0,
        "relative_change": -0.25, "rmse": 0.75, "validation_rmse": None, "seconds": 2.0, "seconds_left": 2.0,
    }  # fmt: skip
    assert stopped.context == {"stop_reason": "max_iter", "iterations": 3}


def test_time_left_is_that_of_the_last_iterations():
    history = [IterationRecord(n + 1, 1.0, 0.0, 0.0, None, None, s) for n, s in enumerate([60, 1, 2, 3, 4, 5])]
    assert seconds_left(history, 8) == 2 * (1 + 2 + 3 + 4 + 5) / 5


def test_objective_that_is_no_number_is_an_error_and_no_line(caplog):
    with pytest.raises(NumericalError, match="the objective of iteration 1 is inf"):
        progress_of(caplog, Descent([np.inf]), max_iter=3)
    assert caplog.records == []


def test_no_iterations_give_the_initial_directions():
    model = fit_without_spark(ALS(rank=4, maxIter=0), columns_of(USERS, ITEMS, VALUES))
    assert np.linalg.norm(model.X, axis=1) == pytest.approx([1.0] * 31, rel=1e-5)
    assert model.summary.history == []


def test_training_stops_when_the_objective_hardly_falls():
    summary = fit_without_spark(ALS(rank=2, maxIter=50, tol=0.01), columns_of(USERS, ITEMS, VALUES)).summary
    assert summary.stop_reason == "tol"
    falls = [1 - after / before for before, after in pairwise(summary.objective_history)]
    assert falls[-1] < 0.01 <= min(falls[:-1], default=1)


@pytest.mark.parametrize(
    ("estimator", "patience"),
    [
        (ALS(rank=4, maxIter=20, regParam=0.1, seed=1), 3),
        (SGD(rank=3, maxIter=20, numBlocks=2, seed=1), 2),
    ],
    ids=["ALS", "SGD"],
)
def test_early_stop_keeps_the_factors_of_the_best_iteration(estimator, patience):
    # Validation ratings of the wrong sign: the better the fit, the larger their error.
    judges = (USERS + ITEMS) % 4 == 0
    flagged = columns_of(USERS, ITEMS, np.where(judges, -VALUES, VALUES), is_validation=judges)
    model = fit_without_spark(estimator.copy({estimator.patience: patience}), flagged)
    errors, best = [record.validation_rmse for record in model.summary.history], model.summary.best_iteration
    assert model.summary.stop_reason == "patience"
    assert best == int(np.argmin(errors)) + 1 == len(errors) - patience
    # Factors of the best iteration, not of the last: as if training had ended there.
    shorter = fit_without_spark(estimator.copy({estimator.maxIter: best}), flagged)
    assert (model.X.tobytes(), model.Y.tobytes()) == (shorter.X.tobytes(), shorter.Y.tobytes())
    held_out = shorter.predict(USERS[judges], ITEMS[judges]) + VALUES[judges]
    assert min(errors) == pytest.approx(np.sqrt(np.nanmean(np.square(held_out))), rel=1e-5)
