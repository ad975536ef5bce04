"""Every solver on weights, a Gram matrix and a λ of its own for each column, against a general solver in float64."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import nnls

from mfspark.kernels.als import solve_exactly
from mfspark.kernels.cg import solve_by_cg
from mfspark.kernels.csr import build_in_block
from mfspark.kernels.equations import Equations
from mfspark.kernels.nonnegative import solve_nonnegative
from mfspark.kernels.padding import pad_factors, padded_rank
from mfspark.kernels.subspace import solve_by_subspaces
from tests import naive
from tests.kernels.strategies import rated

RANKS = [1, 2, 10, 17, 64]
N_SRC = 6_000
# Below and above a pass of 64, above the 4,096 that are summed in float32, none at all.
LENGTHS = [3, 0, 40, 70, 300, 5_000]


def factors(seed, n_rows, rank):
    return np.random.default_rng(seed).standard_normal((n_rows, rank)).astype(np.float32)


def block_of_rows(lengths=LENGTHS):
    random = np.random.default_rng(7)
    triples = [(row, src, 1.0) for row, n in enumerate(lengths) for src in random.choice(N_SRC, n, replace=False)]
    return build_in_block(*rated(0, len(lengths), triples))


def make_equations(block, Y, weighted, with_gram, regularization=0.1):
    random, rank = np.random.default_rng(11), Y.shape[1]
    n, K = block.src.size, padded_rank(rank)
    targets = random.normal(3, 1, n).astype(np.float32)
    weights = random.uniform(0, 4, n).astype(np.float32) if weighted else None
    constants = block.row_sums(targets**2 / np.maximum(weights, 0.1)) if weighted else None
    lambdas = np.zeros(K)
    lambdas[:rank] = regularization * np.linspace(0.5, 2, rank)
    gram = None
    if with_gram:
        gram = np.zeros((K, K), np.float32)
        gram[:rank, :rank] = Y[:500].T @ Y[:500]
        gram = gram.ravel()
    return Equations(targets, weights, constants, random.uniform(0.5, 5, block.n_rows), lambdas, gram)


def relative_errors(found, expected):
    lengths = np.linalg.norm(expected, axis=1)
    return np.linalg.norm(found - expected, axis=1) / np.where(lengths > 0, lengths, 1)


FORMS = pytest.mark.parametrize(("weighted", "with_gram"), [(False, False), (True, False), (False, True), (True, True)])


@FORMS
@pytest.mark.parametrize("rank", RANKS)
def test_exact_solution_is_that_of_a_general_solver(rank, weighted, with_gram):
    block, Y = block_of_rows(), factors(5, N_SRC, rank)
    equations = make_equations(block, Y, weighted, with_gram)
    solved = solve_exactly(block, pad_factors(Y), rank, equations)
    assert solved.singular_row == -1
    assert relative_errors(solved.factors, naive.solve(block, Y, equations)).max() <= 5e-6
    expected = naive.error_of(block, Y, equations, solved.factors)
    assert_allclose(solved.squared_error, expected, rtol=2e-5)


@pytest.mark.parametrize("rank", [2, 17])
def test_badly_conditioned_rows_are_solved_in_float64_with_weights_and_gram(rank):
    block, Y = block_of_rows([rank // 2, 1]), factors(5, N_SRC, rank)
    equations = make_equations(block, Y, weighted=True, with_gram=True, regularization=1e-7)
    equations = equations._replace(gram=equations.gram * np.float32(1e-7))
    solved = solve_exactly(block, pad_factors(Y), rank, equations)
    assert_allclose(solved.factors, naive.solve(block, Y, equations), rtol=1e-4, atol=1e-4)


@FORMS
@pytest.mark.parametrize("rank", RANKS)
def test_cg_with_as_many_steps_as_the_rank_is_exact(rank, weighted, with_gram):
    block, Y = block_of_rows(), factors(5, N_SRC, rank)
    equations = make_equations(block, Y, weighted, with_gram)
    improved = solve_by_cg(block, pad_factors(Y), factors(6, block.n_rows, rank), equations, steps=rank + 2)
    assert relative_errors(improved.factors, naive.solve(block, Y, equations)).max() <= 5e-4
    assert_allclose(improved.squared_error, naive.error_of(block, Y, equations, improved.factors), rtol=1e-4)


# Up to 300 ratings: where the exact solution is cheaper, it is taken.
@FORMS
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("rank", [10, 17, 64])
def test_cg_steps_equal_the_textbooks(rank, steps, weighted, with_gram):
    block, Y = block_of_rows([3, 0, 40, 70, 300]), factors(5, N_SRC, rank)
    equations, X = make_equations(block, Y, weighted, with_gram), factors(6, 5, rank)
    improved = solve_by_cg(block, pad_factors(Y), X, equations, steps=steps)
    assert relative_errors(improved.factors, naive.conjugate_gradients(block, Y, X, equations, steps)).max() <= 5e-5
    assert_allclose(improved.squared_error, naive.error_of(block, Y, equations, improved.factors), rtol=1e-4)


@FORMS
@pytest.mark.parametrize("rank", RANKS)
def test_subspaces_are_solved_one_after_the_other(rank, weighted, with_gram):
    block, Y = block_of_rows(), factors(5, N_SRC, rank)
    equations, X = make_equations(block, Y, weighted, with_gram), factors(6, block.n_rows, rank)
    improved = solve_by_subspaces(block, pad_factors(Y), X, equations)
    assert improved.singular_row == -1
    assert relative_errors(improved.factors, naive.subspaces(block, Y, X, equations, 16)).max() <= 2e-4


@FORMS
@pytest.mark.parametrize("rank", [5, 20])
def test_badly_conditioned_subspaces_are_solved_in_float64(rank, weighted, with_gram):
    # Three ratings and a tiny λ: float32 pivots would be rounding.
    block, Y = block_of_rows([3]), factors(5, N_SRC, rank)
    equations, X = make_equations(block, Y, weighted, with_gram, regularization=1e-5), factors(6, 1, rank)
    if with_gram:
        equations = equations._replace(gram=equations.gram * np.float32(1e-8))
    improved = solve_by_subspaces(block, pad_factors(Y), X, equations)
    assert improved.singular_row == -1
    expected = naive.subspaces(block, Y, X, equations, 16)
    assert_allclose(improved.factors, expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())


def objective(block, Y, equations, X):
    return naive.error_of(block, Y, equations, X) + equations.penalty(X).sum()


@FORMS
@pytest.mark.parametrize("rank", [10, 17, 64])
def test_subspace_steps_lower_the_objective_towards_the_exact_solution(rank, weighted, with_gram):
    block, Y = block_of_rows(), factors(5, N_SRC, rank)
    equations = make_equations(block, Y, weighted, with_gram)
    X = factors(6, block.n_rows, rank)
    X[1] = 0
    exact = objective(block, Y, equations, naive.solve(block, Y, equations))
    gaps = [objective(block, Y, equations, X) - exact]
    for _ in range(12):
        improved = solve_by_subspaces(block, pad_factors(Y), X, equations)
        assert improved.singular_row == -1
        X = improved.factors
        assert_allclose(improved.squared_error, naive.error_of(block, Y, equations, X), rtol=2e-5)
        gaps.append(objective(block, Y, equations, X) - exact)
    assert all(after <= before + 1e-6 * exact for before, after in pairwise(gaps))
    assert gaps[-1] <= 1e-2 * gaps[0]


@FORMS
def test_one_subspace_step_is_exact_up_to_rank_16(weighted, with_gram):
    block, Y = block_of_rows(), factors(5, N_SRC, 16)
    equations = make_equations(block, Y, weighted, with_gram)
    improved = solve_by_subspaces(block, pad_factors(Y), factors(6, block.n_rows, 16), equations)
    assert relative_errors(improved.factors, naive.solve(block, Y, equations)).max() <= 2e-4


@pytest.mark.parametrize("solve", ["exact", "cg", "subspace"])
@pytest.mark.parametrize(("n", "singular_row"), [(2, 0), (3, -1)])
def test_ratings_must_be_as_many_as_the_columns_without_regularization(solve, n, singular_row):
    # Three columns are free; the fourth, as that of a bias, is not.
    block, Y = block_of_rows([n]), factors(5, N_SRC, 4)
    equations = Equations(block.ratings, None, None, np.ones(1), np.r_[0, 0, 0, 0.1, np.zeros(12)], None)
    X = factors(6, 1, 4)
    solved = {
        "exact": lambda: solve_exactly(block, pad_factors(Y), 4, equations),
        "cg": lambda: solve_by_cg(block, pad_factors(Y), X, equations, steps=6),
        "subspace": lambda: solve_by_subspaces(block, pad_factors(Y), X, equations),
    }[solve]()
    assert solved.singular_row == singular_row
    if singular_row < 0:
        assert_allclose(solved.factors, naive.solve(block, Y, equations), rtol=1e-3, atol=1e-3)


def naive_nonnegative(block, Y, equations):
    """min x·A x − 2 b·x over x ≥ 0 as |U x − U⁻ᵀ b|², A = Uᵀ U, by the solver of Lawson and Hanson."""
    X = np.zeros((block.n_rows, Y.shape[1]))
    for row, system in enumerate(naive.equations_of(block, Y, equations)):
        if system is not None:
            A, b = system
            L = np.linalg.cholesky(A)
            X[row], _ = nnls(L.T, np.linalg.solve(L, b), maxiter=1_000)
    return X


@FORMS
@pytest.mark.parametrize("rank", RANKS)
def test_nonnegative_solution_is_that_of_lawson_and_hanson(rank, weighted, with_gram):
    block, Y = block_of_rows(), factors(5, N_SRC, rank)
    equations = make_equations(block, Y, weighted, with_gram)
    expected = naive_nonnegative(block, Y, equations)
    assert np.count_nonzero(expected) > 0
    for start in (factors(6, block.n_rows, rank), np.zeros((block.n_rows, rank), np.float32)):
        solved = solve_nonnegative(block, pad_factors(Y), start, equations)
        assert solved.singular_row == -1
        assert solved.factors.min() == 0
        assert relative_errors(solved.factors, expected).max() <= 2e-5
        assert_allclose(solved.squared_error, naive.error_of(block, Y, equations, solved.factors), rtol=2e-5)


@pytest.mark.parametrize("solve", ["exact", "subspace", "nonnegative"])
def test_a_row_whose_targets_are_zero_becomes_zero_in_a_singular_system(solve):
    # As of a user whose feedback is all negative: no λ, and a Gram matrix of fewer sources than columns.
    # Of whole numbers, so that no rounding hides it.
    block, Y = block_of_rows([2]), np.round(2 * factors(5, N_SRC, 5))
    gram = np.zeros((16, 16), np.float32)
    gram[:5, :5] = Y[:2].T @ Y[:2]
    zeros = np.zeros(2, np.float32)
    equations = Equations(zeros, zeros + 2, np.array([3.0]), np.zeros(1), np.zeros(16), gram.ravel())
    start = np.ones((1, 5), np.float32)
    solved = {
        "exact": lambda: solve_exactly(block, pad_factors(Y), 5, equations),
        "subspace": lambda: solve_by_subspaces(block, pad_factors(Y), start, equations),
        "nonnegative": lambda: solve_nonnegative(block, pad_factors(Y), start, equations),
    }[solve]()
    assert (solved.singular_row, solved.squared_error) == (-1, 3)
    assert_array_equal(solved.factors, np.zeros((1, 5)))


def test_nonnegative_solution_by_hand():
    # A = [[1, 2], [2, 5]], b = [1, 1]: unconstrained x = (3, -1); with the second at 0 the first is 1.
    Y = np.array([[1, 2], [0, 1]], np.float32)
    block = build_in_block(*rated(0, 1, [(0, 0, 1.0), (0, 1, -1.0)]))
    equations = Equations(block.ratings, None, None, np.zeros(1), np.zeros(16), None)
    solved = solve_nonnegative(block, pad_factors(Y), np.ones((1, 2), np.float32), equations)
    assert_array_equal(solved.factors, [[1, 0]])
    assert solved.squared_error == 1


def test_singular_nonnegative_rows_are_named():
    block, Y = block_of_rows([4, 1]), factors(5, N_SRC, 3)
    equations = make_equations(block, Y, weighted=False, with_gram=False, regularization=0.0)
    solved = solve_nonnegative(block, pad_factors(Y), np.ones((2, 3), np.float32), equations)
    assert solved.singular_row == 1
