import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mfspark.kernels.sgd import descend

LAMBDA_USER, LAMBDA_ITEM, LAMBDA_BIAS = 0.3, 0.2, 0.1


def objective_of_rating(x, y, rating, weight, has_biases):
    rank = x.size - has_biases
    prediction = x[:rank] @ y[:rank] + (x[rank:].sum() + y[rank:].sum())
    penalty = LAMBDA_USER * (x[:rank] ** 2).sum() + LAMBDA_ITEM * (y[:rank] ** 2).sum()
    penalty += LAMBDA_BIAS * ((x[rank:] ** 2).sum() + (y[rank:] ** 2).sum())
    return weight * ((rating - prediction) ** 2 + penalty)


def numerical_gradient(function, values, step=1e-6):
    gradient = np.empty_like(values)
    for i in range(values.size):
        shift = np.zeros_like(values)
        shift[i] = step
        gradient[i] = (function(values + shift) - function(values - shift)) / (2 * step)
    return gradient


def descend_on(X, Y, triples, rate, has_biases, weights=None, accumulated=(None, None)):
    users, items, ratings = (np.array(column) for column in zip(*triples, strict=True))
    descend(
        X,
        Y,
        users.astype(np.int32),
        items.astype(np.int32),
        ratings.astype(np.float32),
        weights,
        learning_rate=rate,
        user_regularization=LAMBDA_USER,
        item_regularization=LAMBDA_ITEM,
        bias_regularization=LAMBDA_BIAS if has_biases else None,
        user_accumulated=accumulated[0],
        item_accumulated=accumulated[1],
    )


@pytest.mark.parametrize("weight", [None, 2.5])
@pytest.mark.parametrize("has_biases", [False, True])
@pytest.mark.parametrize("n_columns", [2, 5, 33])
def test_a_step_follows_the_gradient(n_columns, has_biases, weight):
    random = np.random.default_rng(n_columns)
    X, Y = (random.standard_normal((3, n_columns)).astype(np.float32) for _ in range(2))
    before = X.astype(np.float64), Y.astype(np.float64)
    weights = None if weight is None else np.array([weight], np.float32)
    rate = 1e-3
    descend_on(X, Y, [(1, 2, 4.0)], rate, has_biases, weights)
    x, y, w = before[0][1], before[1][2], weight or 1.0
    of_x = numerical_gradient(lambda x: objective_of_rating(x, y, 4.0, w, has_biases), x)
    of_y = numerical_gradient(lambda y: objective_of_rating(x, y, 4.0, w, has_biases), y)
    assert_allclose((X[1] - x) / rate, -of_x / 2, rtol=1e-3, atol=1e-3)
    assert_allclose((Y[2] - y) / rate, -of_y / 2, rtol=1e-3, atol=1e-3)
    assert_array_equal(X[[0, 2]], before[0][[0, 2]])
    assert_array_equal(Y[[0, 1]], before[1][[0, 1]])


def naive_adagrad(X, Y, triples, rate):
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    of_user, of_item = np.zeros(len(X)), np.zeros(len(Y))
    for u, i, rating in triples:
        error = rating - X[u] @ Y[i]
        of_x, of_y = error * Y[i] - LAMBDA_USER * X[u], error * X[u] - LAMBDA_ITEM * Y[i]
        of_user[u] += (of_x**2).mean()
        of_item[i] += (of_y**2).mean()
        X[u], Y[i] = X[u] + rate / of_user[u] ** 0.5 * of_x, Y[i] + rate / of_item[i] ** 0.5 * of_y
    return X, Y, of_user, of_item


def test_adagrad_divides_the_rate_by_the_gradients_so_far():
    random = np.random.default_rng(3)
    X, Y = (random.standard_normal((4, 3)).astype(np.float32) for _ in range(2))
    triples = [(int(random.integers(4)), int(random.integers(4)), float(random.normal(3))) for _ in range(40)]
    expected = naive_adagrad(X, Y, triples, 0.1)
    accumulated = np.zeros(4, np.float32), np.zeros(4, np.float32)
    descend_on(X, Y, triples, 0.1, has_biases=False, accumulated=accumulated)
    for found, value in zip((X, Y, *accumulated), expected, strict=True):
        assert_allclose(found, value, rtol=1e-3, atol=1e-4)


def test_ratings_are_taken_in_their_order():
    one = np.ones((1, 1), np.float32)
    X, Y = one.copy(), one.copy()
    descend_on(X, Y, [(0, 0, 2.0), (0, 0, 3.0)], 0.5, has_biases=False)
    # e = 1: x = 1 + .5 (1 − .3), y = 1 + .5 (1 − .2); then e = 3 − 1.35·1.4 = 1.11
    assert_allclose(X, [[1.35 + 0.5 * (1.11 * 1.4 - 0.3 * 1.35)]], rtol=1e-5)
    assert_allclose(Y, [[1.4 + 0.5 * (1.11 * 1.35 - 0.2 * 1.4)]], rtol=1e-5)
