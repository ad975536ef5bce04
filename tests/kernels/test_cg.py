import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mfspark.kernels.csr import build_in_block
from tests import naive
from tests.kernels.explicit import explicit_equations, solve_explicit_cg
from tests.kernels.strategies import kernel_property, rated, rated_rows


def factors(seed, n_rows, rank):
    return np.random.default_rng(seed).standard_normal((n_rows, rank)).astype(np.float32)


def block_of_rows(lengths, seed=3):
    """Each row rates that many sources, drawn from 1,000 with repetition."""
    random = np.random.default_rng(seed)
    n, dst = sum(lengths), np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    src = random.integers(0, 1000, n, dtype=np.int32)
    return build_in_block(0, len(lengths), dst, src, random.normal(3, 1, n).astype(np.float32))


def objective(block, X, Y, regularization):
    return naive.squared_error(block, X, Y) + regularization * naive.penalty(block, X)


def relative_errors(X, expected):
    return np.linalg.norm(X - expected, axis=1) / np.maximum(np.linalg.norm(expected, axis=1), 1e-30)


# Lengths around the 16 ratings of a turn, and long sums; never so long that the exact solution is cheaper.
LENGTHS = [0, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 0, 300, 5_000]


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("rank", [10, 16, 17, 33, 64, 70, 96, 128, 130])
def test_steps_equal_the_textbooks(rank, steps):
    block, Y, X = block_of_rows(LENGTHS), factors(5, 1000, rank), factors(6, len(LENGTHS), rank)
    improved = solve_explicit_cg(block, Y, X, 0.1, steps=steps)
    assert improved.singular_row == -1
    assert improved.factors.dtype == np.float32
    expected = naive.conjugate_gradients(block, Y, X, explicit_equations(block, Y.shape[1], 0.1), steps)
    assert np.all(relative_errors(improved.factors, expected) <= 2e-5)
    assert_allclose(improved.squared_error, naive.squared_error(block, improved.factors, Y), rtol=1e-5)


@kernel_property
@given(rated_rows(), st.integers(1, 12), st.floats(0.05, 10), st.integers(1, 4), st.integers(0, 1000))
def test_steps_equal_the_textbooks_on_ragged_rows(rows, rank, regularization, steps, seed):
    block, Y = build_in_block(*rows), factors(seed, 6, rank)
    X = factors(seed + 1, block.n_rows, rank)
    improved = solve_explicit_cg(block, Y, X, regularization, steps=steps)
    expected = naive.conjugate_gradients(block, Y, X, explicit_equations(block, Y.shape[1], regularization), steps)
    assert_allclose(improved.factors, expected, rtol=1e-4, atol=1e-5)
    start = naive.squared_error(block, X, Y)
    assert_allclose(
        improved.squared_error, naive.squared_error(block, improved.factors, Y), rtol=1e-5, atol=1e-6 * start + 1e-9
    )


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 8])
def test_as_many_steps_as_the_rank_solve_exactly(rank):
    block, Y = block_of_rows([1, 3, 0, 8, 15]), factors(5, 1000, rank)
    improved = solve_explicit_cg(block, Y, factors(6, 5, rank), 0.1, steps=rank)
    assert np.all(relative_errors(improved.factors, naive.solve_explicit(block, Y, 0.1)) <= 1e-5)


@kernel_property
@given(rated_rows(min_size=1), st.integers(1, 12), st.floats(1e-6, 10), st.integers(0, 1000))
def test_no_step_raises_the_objective(rows, rank, regularization, seed):
    block, Y = build_in_block(*rows), factors(seed, 6, rank)
    X = factors(seed + 1, block.n_rows, rank)
    improved = [solve_explicit_cg(block, Y, X, regularization, steps=steps).factors for steps in range(20)]
    X[np.diff(block.offsets) == 0] = 0
    objectives = [objective(block, old, Y, regularization) for old in (X, *improved)]
    assert np.all(np.diff(objectives) <= 1e-6 * objectives[0])


@pytest.mark.parametrize(("n", "is_exact"), [(100, False), (1000, True)])
def test_rows_that_the_normal_equation_solves_sooner_are_solved_exactly(n, is_exact):
    block, Y = block_of_rows([n]), factors(5, 1000, 10) * np.geomspace(1, 0.1, 10, dtype=np.float32)
    improved = solve_explicit_cg(block, Y, factors(6, 1, 10), 0.01, steps=3)
    errors = relative_errors(improved.factors, naive.solve_explicit(block, Y, 0.01))
    assert (errors.max() < 1e-5) == is_exact
    assert_allclose(improved.squared_error, naive.squared_error(block, improved.factors, Y), rtol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_squared_error_of_an_exact_fit_is_not_negative(seed):
    Y, x = factors(seed, 8, 4), factors(seed + 100, 1, 4)
    block = build_in_block(*rated(0, 1, [(0, src, rating) for src, rating in enumerate(Y @ x[0])]))
    improved = solve_explicit_cg(block, Y, np.zeros((1, 4), np.float32), 1e-9, steps=4)
    assert 0 <= improved.squared_error <= 1e-5 * np.sum((Y @ x[0]) ** 2)


def test_converged_rows_stay_where_they_are():
    block, Y = block_of_rows([1, 5, 40]), factors(5, 1000, 4)
    X = naive.solve_explicit(block, Y, 0.1).astype(np.float32)
    assert_allclose(solve_explicit_cg(block, Y, X, 0.1, steps=10).factors, X, rtol=1e-5, atol=1e-6)


def test_zero_ratings_of_zero_factors_give_zeros():
    block = build_in_block(*rated(0, 2, [(0, src, 0.0) for src in range(20)] + [(1, 0, 0.0)]))
    improved = solve_explicit_cg(block, factors(5, 20, 4), np.zeros((2, 4), np.float32), 0.1, steps=3)
    assert_array_equal(improved.factors, np.zeros((2, 4)))
    assert improved.squared_error == 0


@pytest.mark.parametrize("size", [0, 1, 2, 3, 6, 16])
def test_zero_ratings_take_factors_of_any_size_to_zero(size):
    block = build_in_block(*rated(0, 1, [(0, src, 0.0) for src in range(20)]))
    for seed in range(46):
        Y, X = factors(seed, 20, 3) * np.float32(10.0**-seed), factors(seed + 100, 1, 3) * np.float32(10.0**-size)
        improved = solve_explicit_cg(block, Y, X, 0.1, steps=3)
        assert np.abs(improved.factors).max() <= 1e-3 * np.abs(X).max()
        assert 0 <= improved.squared_error <= 1e-5 * objective(block, X, Y, 0.1)


def test_rows_without_ratings_become_zero():
    improved = solve_explicit_cg(block_of_rows([0, 2, 0]), factors(5, 1000, 4), factors(6, 3, 4), 0.1, steps=1)
    assert_array_equal(improved.factors.any(axis=1), [False, True, False])


def test_fewer_ratings_than_the_rank_without_regularization_have_no_unique_solution():
    improved = solve_explicit_cg(block_of_rows([4, 0, 3, 2]), factors(5, 1000, 4), factors(6, 4, 4), 0.0, steps=2)
    assert improved.singular_row == 2


@pytest.mark.parametrize("seed", range(20))
def test_dependent_sources_without_regularization_leave_finite_factors(seed):
    # 12 ratings of two sources: the steps after the second would follow rounding alone, where nothing holds them.
    block = build_in_block(*rated(0, 1, [(0, n % 2, n / 2) for n in range(12)]))
    Y, X = factors(seed, 2, 8), factors(seed + 100, 1, 8)
    improved = solve_explicit_cg(block, Y, X, 0.0, steps=8)
    assert_allclose(
        improved.factors,
        naive.conjugate_gradients(block, Y, X, explicit_equations(block, Y.shape[1], 0.0), 2),
        rtol=1e-3,
        atol=1e-3,
    )


def test_sources_of_zero_without_regularization_leave_the_factors():
    X = factors(6, 1, 1)
    improved = solve_explicit_cg(block_of_rows([3]), np.zeros((1000, 1), np.float32), X, 0.0, steps=3)
    assert_array_equal(improved.factors, X)


@kernel_property
@given(rated_rows(min_size=1), st.data())
def test_rows_are_improved_each_on_its_own(rows, data):
    order = np.array(data.draw(st.permutations(range(rows.n_rows))), np.int32)
    Y, X = factors(0, 6, 3), factors(1, rows.n_rows, 3)
    improved = solve_explicit_cg(build_in_block(*rows), Y, X, 0.1, steps=2).factors
    renumbered = rows._replace(dst=(order[rows.dst - rows.first_row] + rows.first_row).astype(np.int32))
    moved_X = np.empty_like(X)
    moved_X[order] = X
    assert_array_equal(
        solve_explicit_cg(build_in_block(*renumbered), Y, moved_X, 0.1, steps=2).factors[order], improved
    )


def test_old_factors_are_left_alone():
    X = factors(6, 2, 4)
    before = X.tobytes()
    solve_explicit_cg(block_of_rows([3, 0]), factors(5, 1000, 4), X, 0.1, steps=2)
    assert X.tobytes() == before


@pytest.mark.parametrize("shape", [(2, 4), (4, 4)])
def test_old_factors_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"the block has 3 rows, but there are old factors of [24]"):
        solve_explicit_cg(block_of_rows([3, 1, 2]), factors(5, 1000, 4), np.ones(shape, np.float32), 0.1, steps=1)


def test_source_factors_that_are_too_few_are_refused():
    with pytest.raises(ValueError, match="refers to source row"):
        solve_explicit_cg(block_of_rows([50]), factors(5, 10, 4), factors(6, 1, 4), 0.1, steps=1)
