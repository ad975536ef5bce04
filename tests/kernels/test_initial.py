import numpy as np
import pytest
from numpy.testing import assert_allclose

from mfspark.kernels.initial import initial_factors

SEEDS = [0, 1, -1, 42, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rank", [1, 2, 10, 64])
def test_rows_have_length_one(seed, rank):
    factors = initial_factors(seed, range(500), rank)
    assert (factors.shape, factors.dtype) == ((500, rank), np.float32)
    assert_allclose(np.linalg.norm(factors.astype(np.float64), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("n_rows", [0, 1, 2, 99])
def test_row_does_not_depend_on_the_number_of_rows(n_rows):
    assert initial_factors(7, range(n_rows), 10).tobytes() == initial_factors(7, range(100), 10)[:n_rows].tobytes()


def test_same_seed_gives_the_same_bytes():
    assert initial_factors(7, range(100), 10).tobytes() == initial_factors(7, range(100), 10).tobytes()


def test_each_seed_gives_other_rows():
    rows = {initial_factors(seed, range(1), 10).tobytes() for seed in SEEDS}
    assert len(rows) == len(SEEDS)


def test_seed_is_taken_modulo_two_to_the_64():
    assert initial_factors(-3, range(5), 10).tobytes() == initial_factors(2**64 - 3, range(5), 10).tobytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_all_differ(seed):
    factors = initial_factors(seed, range(1000), 10)
    assert len(np.unique(factors, axis=0)) == 1000


# The bounds below are five standard errors; the seeds are fixed, so the outcome is too.


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rank", [1, 3, 10])
def test_directions_have_mean_zero_and_favour_no_axis(seed, rank):
    n = 20_000
    factors = initial_factors(seed, range(n), rank).astype(np.float64)
    assert_allclose(factors.mean(axis=0), 0, atol=5 / np.sqrt(rank * n))
    assert_allclose(factors.T @ factors / n, np.eye(rank) / rank, atol=5 * np.sqrt(2 / n) / rank)


@pytest.mark.parametrize("seed", SEEDS)
def test_neighbouring_rows_and_neighbouring_seeds_are_uncorrelated(seed):
    n, rank = 20_000, 10
    factors, other = initial_factors(seed, range(n), rank), initial_factors(seed + 1, range(n), rank)
    bound = 5 / np.sqrt(rank * n)
    assert abs((factors[1:] * factors[:-1]).sum(axis=1).mean()) < bound
    assert abs((factors * other).sum(axis=1).mean()) < bound
    assert abs((factors[1:] * other[:-1]).sum(axis=1).mean()) < bound


def test_elements_of_long_rows_are_normal():
    # Fourth moment of a standard normal is 3; of a uniform one it would be 1.8.
    z = initial_factors(3, range(2000), 200).astype(np.float64).ravel() * np.sqrt(200)
    assert np.mean(z**4) == pytest.approx(3, abs=0.1)
