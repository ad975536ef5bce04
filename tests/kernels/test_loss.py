import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfspark.kernels import loss
from mfspark.kernels.csr import build_in_block
from tests import naive
from tests.kernels.explicit import penalty, squared_error
from tests.kernels.strategies import kernel_property, rated, rated_rows

X = np.array([[1, 2], [7, 7], [0, -1]], np.float32)
Y = np.array([[3, 0], [9, 9], [1, 1]], np.float32)
# Local row 0 rated sources 0 and 2, row 1 none, row 2 source 2 twice.
BLOCK = build_in_block(*rated(50, 3, [(50, 2, 5.0), (50, 0, 1.0), (52, 2, 0.5), (52, 2, -3.0)]))


def test_squared_error_by_hand():
    # (1 - 3)² + (5 - 3)² + (0.5 + 1)² + (-3 + 1)²
    assert squared_error(BLOCK, X, Y) == 4 + 4 + 2.25 + 4


def test_weights_count_and_targets_take_the_place_of_ratings():
    targets, weights = np.array([1, 5, 1, 0], np.float32), np.array([1, 0.5, 2, 0], np.float32)
    # (1 - 3)² + 0.5·(5 - 3)² + 2·(1 + 1)² + 0
    assert loss.squared_error(BLOCK, X, Y, targets, weights) == 4 + 2 + 8


def test_penalty_by_hand():
    # 2·(1 + 4) + 0·98 + 2·1: a row without ratings does not count
    assert penalty(BLOCK, X) == 12


@kernel_property
@given(rated_rows(), st.integers(1, 20), st.integers(0, 1000))
def test_loss_equals_the_naive_one(rows, rank, seed):
    random, block = np.random.default_rng(seed), build_in_block(*rows)
    x = random.standard_normal((rows.n_rows, rank)).astype(np.float32)
    y = random.standard_normal((6, rank)).astype(np.float32)
    assert squared_error(block, x, y) == pytest.approx(naive.squared_error(block, x, y), rel=1e-5, abs=1e-9)
    assert penalty(block, x) == pytest.approx(naive.penalty(block, x), rel=1e-12)


def test_loss_of_no_ratings_is_zero():
    block = build_in_block(*rated(0, 3, []))
    assert (squared_error(block, X, Y), penalty(block, X)) == (0.0, 0.0)


def test_sum_over_many_ratings_is_not_rounded_to_float32():
    # 0.01 has an error of its own in float32; a float32 sum of its squares stalls long before the end.
    n = 1_000_000
    ones, sources = np.ones((1, 1), np.float32), np.zeros(n, np.int32)
    block = build_in_block(0, 1, np.zeros(n, np.int32), sources, np.full(n, 1.01, np.float32))
    assert squared_error(block, ones, ones) == pytest.approx(n * (float(np.float32(1.01)) - 1) ** 2, rel=1e-9)
    assert penalty(block, np.full((1, 1), 0.1, np.float32)) == pytest.approx(n * float(np.float32(0.1)) ** 2, rel=1e-12)
