"""Stochastic gradient descent on the ratings of one cell: those of a range of users for a range of items."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.compiled import njit
from mfspark.kernels.equations import times_weight

# With this start value, the first AdaGrad step of a row is defined even if its gradient is zero.
_FIRST_ACCUMULATED = np.float32(1e-8)


def descend(
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    ratings: NDArray[np.float32],
    weights: NDArray[np.float32] | None,
    *,
    learning_rate: float,
    user_regularization: float,
    item_regularization: float,
    bias_regularization: float | None,
    user_accumulated: NDArray[np.float32] | None = None,
    item_accumulated: NDArray[np.float32] | None = None,
) -> None:
    """Take one step for each rating, in the order of the ratings, and change the factors in place.

    With e = r − x·y (− b_u − b_i) a rating of weight w moves x by η w (e y − λ x), y by η w (e x − λ y), and the biases
    by η w (e − λ b): half the negative gradient of w (e² + λ (|x|² + |y|²)). η is the learning rate or, with AdaGrad
    (Duchi, Hazan, Singer, JMLR 2011), the learning rate divided by the root of the row's sum of mean squared gradients.

    Parameters
    ----------
    user_factors, item_factors : float32[n_users, n_columns], float32[n_items, n_columns]    changed
    users, items : int32[n_ratings]    rows of each rating
    ratings, weights : float32[n_ratings]; ratings without the global mean; weights None: all 1
    bias_regularization : λ of the biases, which are the last column; None: there are no biases
    user_accumulated, item_accumulated : float32[n_users], float32[n_items] or None    changed; AdaGrad

    Cost: 5·n_ratings·n_columns multiply-adds. Runs on executors.
    """
    steps = _Steps(
        np.float32(learning_rate),
        np.float32(user_regularization),
        np.float32(item_regularization),
        np.float32(0 if bias_regularization is None else bias_regularization),
    )
    rank = user_factors.shape[1] - (bias_regularization is not None)
    cell = _Ratings(users, items, ratings, weights)
    _descend(user_factors, item_factors, cell, rank, steps, user_accumulated, item_accumulated)


class _Ratings(NamedTuple):
    """Ratings of a cell."""

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    ratings: NDArray[np.float32]
    weights: NDArray[np.float32] | None


class _Steps(NamedTuple):
    """The constants of all steps: η, and λ of users, items and biases."""

    learning_rate: np.float32
    user_lambda: np.float32
    item_lambda: np.float32
    bias_lambda: np.float32


@njit(cache=True, nogil=True)
def _descend(X, Y, cell, rank, steps, user_accumulated, item_accumulated):  # type: ignore[no-untyped-def]
    users, items, ratings, weights = cell
    has_biases = X.shape[1] > rank
    for entry in range(ratings.size):
        x, y = X[users[entry]], Y[items[entry]]
        error = ratings[entry] - _dot(x, y, rank)
        if has_biases:
            error -= x[rank] + y[rank]
        user_rate = item_rate = times_weight(steps.learning_rate, entry, weights)
        if user_accumulated is not None:
            user_rate *= _adapted(user_accumulated, users[entry], error, y, steps.user_lambda, x, rank)
            item_rate *= _adapted(item_accumulated, items[entry], error, x, steps.item_lambda, y, rank)
        _step(x, y, rank, error, user_rate, item_rate, steps)
        if has_biases:
            x[rank] += user_rate * (error - steps.bias_lambda * x[rank])
            y[rank] += item_rate * (error - steps.bias_lambda * y[rank])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(x, y, rank):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(rank):
        total += x[i] * y[i]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _step(x, y, rank, error, user_rate, item_rate, steps):  # type: ignore[no-untyped-def]
    for i in range(rank):
        x_i, y_i = x[i], y[i]
        x[i] = x_i + user_rate * (error * y_i - steps.user_lambda * x_i)
        y[i] = y_i + item_rate * (error * x_i - steps.item_lambda * y_i)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _adapted(accumulated, row, error, other, lambda_, own, rank):  # type: ignore[no-untyped-def]
    """Add the mean squared gradient of a row to its sum, and return the factor of its step."""
    total = np.float32(0)
    for i in range(rank):
        gradient = error * other[i] - lambda_ * own[i]
        total += gradient * gradient
    accumulated[row] += total / rank
    return np.float32(1) / np.sqrt(accumulated[row] + _FIRST_ACCUMULATED)
