import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mfspark.kernels.padding import pad_factors, padded_rank


@pytest.mark.parametrize(("rank", "expected"), [(1, 16), (15, 16), (16, 16), (17, 32), (64, 64), (100, 112)])
def test_padded_rank_is_whole_cache_lines(rank, expected):
    assert padded_rank(rank) == expected


def test_padded_factors_start_on_a_cache_line_and_end_in_zeros():
    factors = np.random.default_rng(0).random((7, 10), np.float32)
    padded = pad_factors(factors)
    assert padded.shape == (7, 16)
    assert padded.ctypes.data % 64 == 0
    assert padded.flags.c_contiguous
    assert_array_equal(padded[:, :10], factors)
    assert_array_equal(padded[:, 10:], np.zeros((7, 6)))
