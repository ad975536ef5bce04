"""What the training loop does on the driver, without a JVM."""

import numpy as np
import pytest

from mfspark.solvers.als import ExplicitALS
from mfspark.solvers.loop import _balanced, _SideState

X, Y = np.array([[3.0, 1.0], [0.5, 2.0]], np.float32), np.array([[0.1, 0.2]], np.float32)
N_USER, N_ITEM = np.array([1, 1]), np.array([2])


def side(factors, n_ratings):
    return _SideState(factors, float(n_ratings @ np.square(factors, dtype=np.float64).sum(axis=1)))


def test_balanced_sides_predict_the_same_with_equal_and_least_penalties():
    users, items = _balanced(side(X, N_USER), side(Y, N_ITEM), ExplicitALS(2, 0.1))
    np.testing.assert_allclose(users.factors @ items.factors.T, X @ Y.T, rtol=1e-6)
    assert users.penalty == pytest.approx(items.penalty)
    for state, n_ratings in ((users, N_USER), (items, N_ITEM)):
        assert state.penalty == pytest.approx(side(state.factors, n_ratings).penalty, rel=1e-6)
    # Σ n |x|² = 14.25 and Σ n |y|² = 0.1: the least sum over all scales is 2 √(14.25 · 0.1).
    assert users.penalty + items.penalty == pytest.approx(2 * (14.25 * 0.1) ** 0.5, rel=1e-6)


@pytest.mark.parametrize(("regularization", "items"), [(0.0, Y), (0.1, np.zeros_like(Y))])
def test_without_a_penalty_there_is_nothing_to_balance(regularization, items):
    before = side(X, N_USER), side(items, N_ITEM)
    after = _balanced(*before, ExplicitALS(2, regularization))
    assert after == before


@pytest.mark.parametrize("cg_steps", [0, 2])
def test_compiling_solves_one_rating_as_a_block_would_be(cg_steps, monkeypatch):
    called = []
    original = ExplicitALS.update_block
    monkeypatch.setattr(
        ExplicitALS, "update_block", lambda solver, *block: called.append(original(solver, *block)) or called[-1]
    )
    ExplicitALS(3, 0.1, cg_steps).compile()
    (update,) = called
    assert update.singular_row == -1
    # One rating of 1 and source factors of 1: x = 1 / (3 + 0.1) in each column.
    np.testing.assert_allclose(update.factors, np.full((1, 3), 1 / 3.1), rtol=1e-5)
