"""ALS through the loop, on threads of this process: no JVM is started."""

from itertools import pairwise

import numpy as np
import pytest

from mfspark import ALS
from mfspark.kernels.initial import initial_factors
from tests.builders import TOY_RATINGS, low_rank_ratings, random_ratings
from tests.local import columns_of, fit_without_spark

USERS, ITEMS, VALUES = random_ratings(seed=5, n_users=31, n_items=17, n_ratings=200)
RATINGS = columns_of(USERS, ITEMS, VALUES)


def test_the_toy_matrix_is_reconstructed():
    X, Y, _ = fit_without_spark(ALS(rank=2, maxIter=50, regParam=0.001), columns_of(*zip(*TOY_RATINGS, strict=True)))
    for user, item, rating in TOY_RATINGS:
        assert X[user - 1] @ Y[item - 1] == pytest.approx(rating, abs=0.1)


def test_user_factors_solve_their_normal_equations():
    X, Y, _ = fit_without_spark(ALS(rank=4, maxIter=3, regParam=0.07), RATINGS)
    for user in range(31):
        rated = Y[ITEMS[user == USERS]].astype(np.float64)
        A = rated.T @ rated + 0.07 * len(rated) * np.eye(4)
        np.testing.assert_allclose(A @ X[user], rated.T @ VALUES[user == USERS], rtol=1e-4, atol=1e-4)


def test_history_is_the_objective_and_falls():
    X, Y, summary = fit_without_spark(ALS(rank=4, maxIter=6, regParam=0.07), RATINGS)
    last = summary.history[-1]
    errors = VALUES - np.einsum("nk,nk->n", X[USERS], Y[ITEMS])
    assert last.squared_error == pytest.approx(np.square(errors).sum(), rel=1e-4)
    assert last.user_penalty == pytest.approx(0.07 * np.square(X[USERS]).sum(), rel=1e-4)
    assert last.item_penalty == pytest.approx(0.07 * np.square(Y[ITEMS]).sum(), rel=1e-4)
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(summary.objective_history))


def plain_als(rank, n_iterations, regularization):
    """ALS-WR from the same start, without balancing, in float64."""
    X, Y = initial_factors(0, range(31), rank).astype(float), np.zeros((17, rank))
    for _ in range(n_iterations):
        for own, factors, others, src in ((ITEMS, Y, USERS, X), (USERS, X, ITEMS, Y)):
            for row in range(len(factors)):
                rated, values = src[others[own == row]], VALUES[own == row]
                A = rated.T @ rated + regularization * len(rated) * np.eye(rank)
                factors[row] = np.linalg.solve(A, rated.T @ values)
    return X @ Y.T


@pytest.mark.parametrize(
    ("regularization", "n_iterations", "is_plain"), [(0.01, 5, True), (0.01, 6, False), (0.1, 2, False)]
)
def test_sides_are_balanced_at_once_unless_there_is_little_regularization(regularization, n_iterations, is_plain):
    X, Y, _ = fit_without_spark(ALS(rank=3, maxIter=n_iterations, regParam=regularization), RATINGS)
    expected = plain_als(3, n_iterations, regularization)
    assert np.allclose(X @ Y.T, expected, rtol=1e-3, atol=1e-3) == is_plain


@pytest.mark.parametrize("rank", [1, 3])
def test_a_matrix_of_exactly_this_rank_is_recovered(rank):
    matrix = low_rank_ratings(seed=1, n_users=20, n_items=12, rank=rank)
    users, items = (indices.ravel() for indices in np.indices(matrix.shape))
    X, Y, _ = fit_without_spark(ALS(rank=rank, maxIter=30, regParam=1e-5), columns_of(users, items, matrix.ravel()))
    np.testing.assert_allclose(X @ Y.T, matrix, atol=0.01)


@pytest.mark.parametrize("blocks", [(1, 2), (3, 2), (40, 40)])
def test_factors_do_not_depend_on_the_number_of_blocks(blocks):
    def fit(n_user_blocks, n_item_blocks):
        als = ALS(rank=4, maxIter=3, numUserBlocks=n_user_blocks, numItemBlocks=n_item_blocks)
        return fit_without_spark(als, RATINGS)

    for found, expected in zip(fit(*blocks)[:2], fit(1, 1)[:2], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
