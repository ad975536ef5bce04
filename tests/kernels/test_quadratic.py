"""The error of a row as a quadratic form, summed up part by part."""

import numpy as np
import pytest
import scipy.optimize

from mfspark.kernels.quadratic import Quadratic, sum_of_squares

random = np.random.default_rng(4)
Y = random.standard_normal((50, 5)).astype(np.float32)
SRC = random.integers(0, 50, 10_000).astype(np.int32)
TARGETS = random.standard_normal(SRC.size).astype(np.float32)
WEIGHTS = random.uniform(0.5, 2, SRC.size).astype(np.float32)
X = np.array([0.3, -1.2, 0.5, 2.0], np.float32)


def naive(weights, x):
    """Σ w (x·y)² − 2 t x·y, rating by rating."""
    products = Y[SRC, :4].astype(np.float64) @ x
    return float((weights.astype(np.float64) * products**2 - 2 * TARGETS * products).sum())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_form_is_the_sum_over_the_ratings(weights):
    form = sum_of_squares(SRC, Y, 4, TARGETS, weights, 7.0)
    expected = naive(np.ones(SRC.size) if weights is None else weights, X) + 7
    assert form.at(X) == pytest.approx(expected, rel=1e-6)


def test_parts_add_up_to_the_whole():
    whole = sum_of_squares(SRC, Y, 4, TARGETS, WEIGHTS, 7.0)
    first, second = slice(0, 3000), slice(3000, None)
    parts = [sum_of_squares(SRC[part], Y, 4, TARGETS[part], WEIGHTS[part], 3.5) for part in (first, second)]
    assert parts[0].plus(parts[1]).at(X) == pytest.approx(whole.at(X), rel=1e-6)
    np.testing.assert_allclose(parts[0].plus(parts[1]).A, whole.A, rtol=1e-5, atol=1e-2)


def test_the_minimum_is_the_least_squares_solution():
    form = sum_of_squares(SRC, Y, 4, TARGETS, None, 0.0)
    expected, *_ = np.linalg.lstsq(Y[SRC, :4].astype(np.float64), TARGETS.astype(np.float64), rcond=None)
    np.testing.assert_allclose(form.minimum(is_nonnegative=False), expected, rtol=1e-4, atol=1e-6)


def test_the_nonnegative_minimum_is_that_of_nonnegative_least_squares():
    form = sum_of_squares(SRC, Y, 4, TARGETS, None, 0.0)
    expected, _ = scipy.optimize.nnls(Y[SRC, :4].astype(np.float64), TARGETS.astype(np.float64))
    assert 0 < np.count_nonzero(expected) < 4
    np.testing.assert_allclose(form.minimum(is_nonnegative=True), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("is_nonnegative", [False, True])
def test_a_form_without_one_minimum_has_none(is_nonnegative):
    flat = Quadratic(np.outer([1.0, 2.0], [1.0, 2.0]), np.array([1.0, 2.0]), 0.0)
    assert flat.minimum(is_nonnegative) is None
