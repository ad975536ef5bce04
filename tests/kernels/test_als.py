import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mfspark.kernels.als import solve_exactly
from mfspark.kernels.csr import build_in_block
from mfspark.kernels.initial import initial_factors
from tests import naive
from tests.builders import low_rank_ratings, random_ratings
from tests.kernels.explicit import explicit_equations, solve_explicit
from tests.kernels.strategies import kernel_property, rated, rated_rows

RANKS = [1, 2, 10, 17, 64]


def factors_like_trained(seed, n_rows, rank):
    return np.random.default_rng(seed).standard_normal((n_rows, rank)).astype(np.float32)


def uneven_block(n_src):
    """Row 0 has 7 ratings, row 1 none, row 2 one, row 3 a rating of each source, row 4 none."""
    random = np.random.default_rng(3)
    triples = [(0, src, 1 + src / 4) for src in range(7)] + [(2, 5, 4.0)]
    triples += [(3, src, rating) for src, rating in enumerate(random.normal(3, 1, n_src))]
    return build_in_block(*rated(0, 5, triples))


def both_sides(users, items, ratings):
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    return build_in_block(0, n_users, users, items, ratings), build_in_block(0, n_items, items, users, ratings)


def naive_objective(by_user, X, by_item, Y, regularization):
    penalties = [
        naive.penalty(by_user, X),
        naive.penalty(by_item, Y),
    ]
    return naive.squared_error(by_user, X, Y) + regularization * sum(penalties)


def full_matrix(R):
    """In-blocks of both sides of a matrix without unknown cells."""
    users, items = np.indices(R.shape, np.int32).reshape(2, -1)
    return both_sides(users, items, R.astype(np.float32).ravel())


def alternate(R, rank, regularization, n_iterations):
    """RMSE after a training on all cells of R by the kernel alone."""
    by_user, by_item = full_matrix(R)
    # A start nearly orthogonal to R would make X tiny beside Y, and λ |x|² + λ |y|² no longer small.
    Y = initial_factors(1, range(R.shape[1]), rank)
    for _ in range(n_iterations):
        X, _, singular_user = solve_explicit(by_user, Y, regularization)
        Y, _, singular_item = solve_explicit(by_item, X, regularization)
        assert (singular_user, singular_item) == (-1, -1)
    return np.sqrt(np.mean((R - X.astype(np.float64) @ Y.T) ** 2))


@pytest.mark.parametrize("rank", RANKS)
def test_solution_equals_the_naive_one_on_short_long_and_empty_rows(rank):
    block, Y = uneven_block(20_000), factors_like_trained(5, 20_000, rank)
    solved = solve_explicit(block, Y, 0.1)
    assert solved.singular_row == -1
    expected = naive.solve_explicit(block, Y, 0.1)
    errors = np.linalg.norm(solved.factors - expected, axis=1)
    assert np.all(errors <= 5e-6 * np.linalg.norm(expected, axis=1))
    assert_allclose(solved.squared_error, naive.squared_error(block, solved.factors, Y), rtol=1e-5)


@pytest.mark.parametrize("rank", RANKS)
def test_rows_without_ratings_are_zero(rank):
    solved = solve_explicit(uneven_block(30), factors_like_trained(5, 30, rank), 0.1)
    assert_array_equal(solved.factors[[1, 4]], np.zeros((2, rank)))
    assert np.all(solved.factors[[0, 2, 3]].any(axis=1))


@kernel_property
@given(rated_rows(), st.integers(1, 12), st.floats(1e-3, 10), st.integers(0, 1000))
def test_every_solution_satisfies_its_normal_equation(rows, rank, regularization, seed):
    block, Y = build_in_block(*rows), factors_like_trained(seed, 6, rank)
    X, _, singular_row = solve_explicit(block, Y, regularization)
    assert singular_row == -1
    for x, (src, ratings) in zip(X.astype(np.float64), naive.rows_of(block), strict=True):
        y = Y[src].astype(np.float64)
        A = y.T @ y + regularization * len(src) * np.eye(rank)
        b = y.T @ ratings
        # Rounding of x to float32, and of sums of r y that may cancel: 6e-8 of their largest parts each.
        largest = np.abs(A) @ np.abs(x) + np.abs(y).T @ np.abs(ratings)
        assert np.all(np.abs(A @ x - b) <= 1e-6 * largest)


@pytest.mark.parametrize(
    ("regularization", "expected"),
    [(0.0, [-8.333333, 6.0]), (0.5, [-0.1155556, 3.28])],  # three ratings: λ n = 0 and 1.5
)
def test_solution_equals_that_of_sparks_cholesky_solver(regularization, expected):
    # A = [[3, 9], [9, 29]], b = [29, 99]: the values of ALSSuite, 'CholeskySolver'.
    Y = np.array([[1, 2], [1, 3], [1, 4]], np.float32)
    block = build_in_block(*rated(0, 1, [(0, 0, 4.0), (0, 1, 9.0), (0, 2, 16.0)]))
    assert_allclose(solve_explicit(block, Y, regularization).factors, [expected], rtol=1e-6)


@pytest.mark.parametrize("rank", [2, 10, 17, 64])
def test_badly_conditioned_rows_are_solved_in_float64(rank):
    # Half as many ratings as factors and a tiny λ: float32 pivots would keep three digits or fewer.
    sources = max(1, rank // 2)
    block = build_in_block(*rated(0, 1, [(0, src, 1 + src % 5) for src in range(sources)]))
    Y = factors_like_trained(2, sources, rank)
    expected = naive.solve_explicit(block, Y, 1e-6)
    assert_allclose(solve_explicit(block, Y, 1e-6).factors, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("regularization", [1e-4, 1e-2])
@pytest.mark.parametrize("rank", [10, 33, 64])
def test_loss_and_solution_hold_where_source_columns_are_correlated(rank, regularization):
    random = np.random.default_rng(rank)
    Y = random.standard_normal((400, rank)) * np.geomspace(1, 0.02, rank) @ random.standard_normal((rank, rank))
    Y = (Y / np.linalg.norm(Y, axis=1).mean() * 1.5).astype(np.float32)
    triples = [(row, src, random.normal(3, 1)) for row, n in enumerate((rank, 100, 400)) for src in range(n)]
    block = build_in_block(*rated(0, 3, triples))
    solved = solve_explicit(block, Y, regularization)
    expected = naive.solve_explicit(block, Y, regularization)
    errors = np.linalg.norm(solved.factors - expected, axis=1)
    assert np.all(errors <= 2e-5 * np.linalg.norm(expected, axis=1))
    assert_allclose(solved.squared_error, naive.squared_error(block, solved.factors, Y), rtol=1e-4)


def test_unpadded_factors_are_refused():
    block, Y = uneven_block(30), factors_like_trained(5, 30, 10)
    with pytest.raises(ValueError, match="with rank 10, factors must be padded to 16 columns, found 10"):
        solve_exactly(block, Y, 10, explicit_equations(block, 10, 0.1))


@pytest.mark.parametrize(("n", "expected"), [(1, 10 / 7), (3, 10 / 7), (10, 10 / 7)])
def test_regularization_counts_once_per_rating(n, expected):
    # n ratings of 5 for y = 2: x = 10 n / (4 n + 3 n), whatever n; with λ counted once it would grow with n.
    block = build_in_block(*rated(0, 1, [(0, src, 5.0) for src in range(n)]))
    solved = solve_explicit(block, np.full((n, 1), 2, np.float32), 3.0)
    assert_allclose(solved.factors, [[expected]], rtol=1e-6)


def test_each_rating_of_a_repeated_pair_counts():
    # (4 + 4 + 2·1) x = 2·(3 + 5)
    block = build_in_block(*rated(0, 1, [(0, 0, 3.0), (0, 0, 5.0)]))
    assert_allclose(solve_explicit(block, np.array([[2]], np.float32), 1.0).factors, [[1.6]], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rank", [2, 8, 17])
def test_fewer_ratings_than_the_rank_without_regularization_have_no_unique_solution(rank, seed):
    # Row 0 is solvable and row 1 is empty; row 2 lacks one rating, row 3 all but one.
    triples = [(0, src, 1.0) for src in range(rank)] + [(2, src, 1.0) for src in range(rank - 1)] + [(3, 0, 1.0)]
    block = build_in_block(*rated(0, 4, triples))
    assert solve_explicit(block, factors_like_trained(seed, rank, rank), 0.0).singular_row == 2


def test_repeated_pair_does_not_make_a_row_solvable():
    block = build_in_block(*rated(0, 1, [(0, 0, 3.0), (0, 0, 5.0)]))
    assert solve_explicit(block, np.array([[0.3, 0.7]], np.float32), 0.0).singular_row == 0


def test_source_factors_of_zero_have_no_unique_solution_without_regularization():
    block = build_in_block(*rated(0, 1, [(0, 0, 3.0)]))
    assert solve_explicit(block, np.zeros((1, 1), np.float32), 0.0).singular_row == 0


def test_any_regularization_makes_a_row_with_one_rating_solvable():
    block = build_in_block(*rated(0, 1, [(0, 0, 3.0)]))
    assert solve_explicit(block, np.array([[0.3, 0.7]], np.float32), 1e-6).singular_row == -1


@pytest.mark.parametrize("rank", [1, 2, 10])
def test_as_many_ratings_as_the_rank_are_fitted_exactly_without_regularization(rank):
    Y = factors_like_trained(1, rank, rank) + 3 * np.eye(rank, dtype=np.float32)
    ratings = np.arange(1, rank + 1, dtype=np.float32)
    block = build_in_block(0, 1, np.zeros(rank, np.int32), np.arange(rank, dtype=np.int32), ratings)
    X, _, singular_row = solve_explicit(block, Y, 0.0)
    assert singular_row == -1
    assert_allclose(X @ Y.T, [ratings], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("src_factors", "message"),
    [
        (np.ones((30, 16)), r"C-contiguous float32 matrix, found float64\[30, 16\]"),
        (np.ones((30, 16), np.float32, order="F"), r"C-contiguous float32 matrix, found float32\[30, 16\]"),
        (np.ones((30, 32), np.float32)[:, ::2], r"C-contiguous float32 matrix, found float32\[30, 16\]"),
        (np.ones(30, np.float32), r"C-contiguous float32 matrix, found float32\[30\]"),
        (np.ones((29, 16), np.float32), "refers to source row 29, but there are 29 rows of factors"),
        (np.ones((0, 16), np.float32), "refers to source row 29, but there are 0 rows of factors"),
    ],
    ids=["float64", "column-major", "strided", "vector", "one row short", "empty"],
)
def test_unusable_source_factors_are_refused(src_factors, message):
    block = uneven_block(30)
    with pytest.raises(ValueError, match=message):
        solve_exactly(block, src_factors, 4, explicit_equations(block, 4, 0.1))


def test_block_without_ratings_needs_no_source_factors():
    solved = solve_explicit(build_in_block(*rated(0, 3, [])), np.ones((0, 4), np.float32), 0.0)
    assert_array_equal(solved.factors, np.zeros((3, 4)))
    assert solved.singular_row == -1


def test_source_factors_are_left_alone():
    Y = factors_like_trained(5, 30, 4)
    before = Y.tobytes()
    solve_explicit(uneven_block(30), Y, 0.1)
    assert Y.tobytes() == before


@pytest.mark.parametrize("rank", [1, 3, 10])
@pytest.mark.parametrize("regularization", [0.01, 0.1, 1.0])
def test_objective_never_rises_in_a_half_iteration(rank, regularization):
    by_user, by_item = both_sides(*random_ratings(2, n_users=40, n_items=25, n_ratings=300))
    X, Y = initial_factors(1, range(by_user.n_rows), rank), initial_factors(2, range(by_item.n_rows), rank)
    objectives = [naive_objective(by_user, X, by_item, Y, regularization)]
    for _ in range(5):
        X = solve_explicit(by_user, Y, regularization).factors
        objectives.append(naive_objective(by_user, X, by_item, Y, regularization))
        Y = solve_explicit(by_item, X, regularization).factors
        objectives.append(naive_objective(by_user, X, by_item, Y, regularization))
    assert np.all(np.diff(objectives) <= 1e-6 * np.array(objectives[:-1]))
    assert objectives[1] < 0.9 * objectives[0]


@pytest.mark.parametrize("seed", range(3))
def test_no_other_factors_have_a_lower_objective(seed):
    by_user, by_item = both_sides(*random_ratings(seed, n_users=12, n_items=9, n_ratings=50))
    Y = factors_like_trained(seed, by_item.n_rows, 3)
    X = solve_explicit(by_user, Y, 0.1).factors
    best = naive_objective(by_user, X, by_item, Y, 0.1)
    for step in (1e-2, -1e-2):
        for cell in np.ndindex(X.shape):
            moved = X.copy()
            moved[cell] += step
            assert naive_objective(by_user, moved, by_item, Y, 0.1) > best


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_matrix_of_low_rank_is_recovered(rank):
    R = low_rank_ratings(4, n_users=20, n_items=40, rank=rank)
    assert alternate(R, rank, 1e-9, n_iterations=10) < 1e-5 * np.sqrt(np.mean(R**2))


@pytest.mark.parametrize("rank", [1, 2])
def test_matrix_of_rank_one_is_recovered_as_in_sparks_suite(rank):
    R = low_rank_ratings(8, n_users=20, n_items=40, rank=1)
    assert alternate(R, rank, 1e-5, n_iterations=10) < 1e-3


@kernel_property
@given(rated_rows(min_size=1), st.permutations(range(6)), st.integers(0, 1000))
def test_solution_does_not_depend_on_the_numbering_of_the_sources(rows, renumbered, seed):
    Y, new_src = factors_like_trained(seed, 6, 3), np.array(renumbered, np.int32)
    permuted_Y = np.empty_like(Y)
    permuted_Y[new_src] = Y
    X = solve_explicit(build_in_block(*rows), Y, 0.1).factors
    permuted_X = solve_explicit(build_in_block(*rows._replace(src=new_src[rows.src])), permuted_Y, 0.1).factors
    assert_allclose(permuted_X, X, rtol=1e-5, atol=1e-5)


@kernel_property
@given(rated_rows(min_size=1), st.data())
def test_rows_are_solved_each_on_its_own(rows, data):
    order = np.array(data.draw(st.permutations(range(rows.n_rows))), np.int32)
    Y = factors_like_trained(0, 6, 3)
    X = solve_explicit(build_in_block(*rows), Y, 0.1).factors
    renumbered = rows._replace(dst=(order[rows.dst - rows.first_row] + rows.first_row).astype(np.int32))
    assert_array_equal(solve_explicit(build_in_block(*renumbered), Y, 0.1).factors[order], X)
