"""ALS through the loop, on threads of this process: no JVM is started."""

from itertools import pairwise, product

import numpy as np
import pytest

from mfspark import ALS
from mfspark.kernels.csr import build_in_block
from mfspark.kernels.initial import initial_factors
from tests import naive
from tests.builders import TOY_RATINGS, low_rank_ratings, random_ratings
from tests.local import columns_of, fit_without_spark

USERS, ITEMS, VALUES = random_ratings(seed=5, n_users=31, n_items=17, n_ratings=200)
RATINGS = columns_of(USERS, ITEMS, VALUES)
TOY = columns_of(*zip(*TOY_RATINGS, strict=True))


def test_the_toy_matrix_is_reconstructed():
    model = fit_without_spark(ALS(rank=2, maxIter=50, regParam=0.001), TOY)
    for user, item, rating in TOY_RATINGS:
        assert model.X[user - 1] @ model.Y[item - 1] == pytest.approx(rating, abs=0.1)


def test_a_trained_toy_model_fits_known_cells_and_predicts_the_others():
    model = fit_without_spark(ALS(rank=2, maxIter=20, regParam=0.05, seed=2), TOY)
    users, items, ratings = zip(*TOY_RATINGS, strict=True)
    assert model.predict(users, items) == pytest.approx(ratings, abs=0.15)
    assert all(1 < prediction < 5 for prediction in model.predict([1, 2, 3], [3, 2, 1]))


def test_user_factors_solve_their_normal_equations():
    model = fit_without_spark(ALS(rank=4, maxIter=3, regParam=0.07), RATINGS)
    for user in range(31):
        rated = model.Y[ITEMS[user == USERS]].astype(np.float64)
        A = rated.T @ rated + 0.07 * len(rated) * np.eye(4)
        np.testing.assert_allclose(A @ model.X[user], rated.T @ VALUES[user == USERS], rtol=1e-4, atol=1e-4)


def test_history_is_the_objective_and_falls():
    X, Y, summary, _ = fit_without_spark(ALS(rank=4, maxIter=8, regParam=0.07), RATINGS)
    X, Y, last = X.astype(np.float64), Y.astype(np.float64), summary.history[-1]
    squared_error = np.square(VALUES - np.einsum("nk,nk->n", X[USERS], Y[ITEMS])).sum()
    of_users, of_items = 0.07 * np.square(X[USERS]).sum(), 0.07 * np.square(Y[ITEMS]).sum()
    assert last.squared_error == pytest.approx(squared_error, rel=1e-5)
    assert last.rmse == pytest.approx((squared_error / 200) ** 0.5, rel=1e-5)
    assert (last.user_penalty, last.item_penalty) == pytest.approx((of_users, of_items), rel=1e-5)
    assert last.penalty == pytest.approx(of_users + of_items, rel=1e-5)
    assert len(summary.objective_history) == 8
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(summary.objective_history))


@pytest.mark.parametrize(("regularization", "initial_length"), [(0.05, 0.5**0.5), (0.2, 1.0)])
def test_iterations_are_those_of_balanced_als(regularization, initial_length):
    by_user, by_item = build_in_block(0, 31, USERS, ITEMS, VALUES), build_in_block(0, 17, ITEMS, USERS, VALUES)
    X, Y = (initial_length * initial_factors(seed, range(n), 3) for seed, n in ((10, 31), (11, 17)))
    X, Y, objectives = naive.balanced_als(by_user, by_item, X, Y, regularization, 4)
    model = fit_without_spark(ALS(rank=3, maxIter=4, regParam=regularization, seed=5), RATINGS)
    np.testing.assert_allclose(model.X, X, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.Y, Y, rtol=1e-3, atol=1e-4)
    assert model.summary.objective_history == pytest.approx(objectives, rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_matrix_of_exactly_this_rank_is_recovered(rank):
    matrix = low_rank_ratings(seed=1, n_users=20, n_items=12, rank=rank)
    users, items = (indices.ravel() for indices in np.indices(matrix.shape))
    model = fit_without_spark(ALS(rank=rank, maxIter=30, regParam=1e-5), columns_of(users, items, matrix.ravel()))
    np.testing.assert_allclose(model.X @ model.Y.T, matrix, atol=0.01)


def test_the_hidden_part_of_a_rank_2_matrix_is_recovered():
    matrix = low_rank_ratings(seed=4, n_users=30, n_items=20, rank=2)
    is_known = np.random.default_rng(0).random(600).reshape(30, 20) < 0.6
    known = columns_of(*np.nonzero(is_known), matrix[is_known])
    model = fit_without_spark(ALS(rank=2, maxIter=30, regParam=1e-6), known)
    assert np.abs(matrix - model.X @ model.Y.T)[~is_known].max() < 0.01


@pytest.mark.parametrize(
    ("rank", "of_model", "noise", "regularization", "bound", "n_blocks"),
    [
        (1, 1, 0.0, 1e-5, 0.001, 1),
        (1, 2, 0.0, 1e-5, 0.001, 2),
        (1, 2, 0.01, 0.01, 0.02, 2),
        (2, 3, 0.01, 0.01, 0.03, 5),
        (2, 2, 0.0, 1e-4, 0.002, 21),
    ],
)
def test_exact_and_noisy_matrices_are_recovered(rank, of_model, noise, regularization, bound, n_blocks):
    # Bounds of Spark's own tests: 20 × 40, 60 % for training, 30 % for the test. Where the model has more factors than
    # the matrix, they are met from some initial factors only. Without noise these are 73 % of 300 if the sides are not
    # balanced, as in Spark's ALS, and 34 % if they are: the best of eight seeds.
    random = np.random.default_rng(0)
    R = random.uniform(-1, 1, (20, rank)) @ random.uniform(-1, 1, (rank, 40))
    pairs = list(product(range(20), range(40)))
    random.shuffle(pairs)
    rows = [(u, i, float(R[u, i] + noise * random.standard_normal())) for u, i in pairs]
    train, (users, items, wanted) = columns_of(*zip(*rows[:480], strict=True)), zip(*rows[480:720], strict=True)
    als = ALS(rank=of_model, regParam=regularization, numUserBlocks=n_blocks, numItemBlocks=n_blocks)
    models = [fit_without_spark(als.setSeed(seed), train) for seed in range(8)]
    errors = [np.sqrt(np.mean(np.square(model.predict(users, items) - wanted))) for model in models]
    assert np.isfinite(errors).all()
    assert min(errors) < bound


def test_one_user_and_one_item_with_one_rating_are_trained():
    model = fit_without_spark(ALS(rank=3, maxIter=3, regParam=0.01), columns_of([1], [1], [5.0]))
    assert model.predict([1], [1]) == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("blocks", [(1, 2), (3, 2), (5, 7), (33, 18), (40, 40)])
def test_factors_do_not_depend_on_the_number_of_blocks(blocks):
    def fit(n_user_blocks, n_item_blocks):
        als = ALS(rank=4, maxIter=4, numUserBlocks=n_user_blocks, numItemBlocks=n_item_blocks)
        return fit_without_spark(als, RATINGS)

    for found, expected in zip(fit(*blocks)[:2], fit(1, 1)[:2], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_same_seed_gives_the_same_bytes_in_any_order_and_partitioning():
    als = ALS(rank=4, maxIter=3, seed=11)
    first = fit_without_spark(als, RATINGS)
    second = fit_without_spark(als, RATINGS.take(np.argsort(VALUES)), n_parts=5)
    assert first.ids == second.ids
    assert (first.X.tobytes(), first.Y.tobytes()) == (second.X.tobytes(), second.Y.tobytes())


def test_another_seed_gives_other_factors():
    first, second = (fit_without_spark(ALS(rank=4, maxIter=1, seed=seed), RATINGS) for seed in (1, 2))
    assert np.abs(first.X - second.X).max() > 0.01


def test_as_many_cg_steps_as_the_rank_are_exact():
    exact, steps = (fit_without_spark(ALS(rank=3, maxIter=3, solver=solver), RATINGS) for solver in ("cholesky", "cg"))
    np.testing.assert_allclose(steps.X, exact.X, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(steps.Y, exact.Y, rtol=1e-3, atol=1e-4)


def test_one_cg_step_goes_on_from_the_factors_before():
    exact, steps = (
        fit_without_spark(
            ALS(rank=4, maxIter=12, regParam=0.05, solver=solver, cgSteps=1), RATINGS
        ).summary.objective_history
        for solver in ("cholesky", "cg")
    )
    assert steps[0] > 1.02 * exact[0]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(steps))
    assert steps[-1] < 1.05 * exact[-1]


def test_validation_ratings_are_not_trained_on():
    judges = (USERS + ITEMS) % 4 == 0
    als = ALS(rank=3, maxIter=2)
    with_flag = fit_without_spark(als, columns_of(USERS, ITEMS, VALUES, is_validation=judges))
    without = fit_without_spark(als, RATINGS.filter(~judges))
    assert with_flag.ids == without.ids
    assert with_flag.X.tobytes() == without.X.tobytes()


@pytest.mark.parametrize("is_implicit", [False, True])
def test_many_iterations_do_not_fail(is_implicit):
    als = ALS(rank=2, maxIter=50, implicitPrefs=is_implicit, numUserBlocks=1, numItemBlocks=2)
    history = fit_without_spark(als, RATINGS).summary.objective_history
    assert len(history) == 50
    assert history[-1] <= history[0]
