import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mfspark.kernels import balance
from mfspark.kernels.balance import cut_evenly
from tests.kernels.strategies import kernel_property

# Counts of ratings: mostly small, now and then a very popular row.
weight_lists = st.lists(st.one_of(st.integers(0, 5), st.integers(0, 10**9)), max_size=30)


def cut(weights, n_parts):
    return cut_evenly(np.array(weights, np.int64), n_parts).tolist()


@kernel_property
@given(weight_lists, st.integers(1, 40))
def test_bounds_ascend_from_zero_to_the_number_of_weights(weights, n_parts):
    bounds = cut(weights, n_parts)
    assert len(bounds) == n_parts + 1
    assert (bounds[0], bounds[-1]) == (0, len(weights))
    assert bounds == sorted(bounds)


@kernel_property
@given(st.one_of(weight_lists, weight_lists.map(sorted)).filter(len), st.integers(1, 40))
@example([9, 9, 9, 9, 0, 0, 0, 0], 2)  # all weight at one end: parts of equal length would not do
def test_no_part_exceeds_its_even_share_by_more_than_the_largest_weight(weights, n_parts):
    bounds = cut(weights, n_parts)
    sums = [sum(weights[start:end]) for start, end in pairwise(bounds)]
    assert max(sums) * n_parts <= sum(weights) + max(weights) * n_parts


@kernel_property
@given(weight_lists.filter(len), st.integers(2, 40))
def test_each_cut_is_where_the_running_sum_is_nearest_to_its_share(weights, n_parts):
    bounds = cut(weights, n_parts)
    running = np.concatenate([[0], np.cumsum(weights)])
    for part, bound in enumerate(bounds[1:-1], start=1):
        share = running[-1] * part / n_parts
        assert abs(running[bound] - share) == np.abs(running - share).min()


def test_equal_weights_are_cut_into_equal_parts():
    assert cut([3] * 12, 4) == [0, 3, 6, 9, 12]


def test_heavy_weight_gets_a_part_of_its_own():
    assert cut([1, 1, 100, 1, 1], 3) == [0, 2, 3, 5]


def test_heavy_last_weight_gets_a_part_of_its_own():
    assert cut([1, 1, 1, 1, 1, 5], 2) == [0, 5, 6]


def test_more_parts_than_weights_leave_parts_empty_and_split_none():
    bounds = cut([1, 1], 5)
    sizes = np.diff(bounds)
    assert sorted(sizes) == [0, 0, 0, 1, 1]


def test_one_part_takes_all():
    assert cut([4, 0, 2], 1) == [0, 3]


@pytest.mark.parametrize("n_parts", [1, 2, 7])
def test_weights_of_zero_are_covered(n_parts):
    bounds = cut([0, 0, 0], n_parts)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, 3, n_parts + 1)
    assert bounds == sorted(bounds)


@pytest.mark.parametrize("n_parts", [1, 2, 7])
def test_no_weights_make_empty_parts(n_parts):
    assert cut([], n_parts) == [0] * (n_parts + 1)


def test_bounds_are_int64():
    assert cut_evenly(np.array([1, 2, 3]), 2).dtype == np.int64


def test_example_of_the_cut_runs():
    result = doctest.testmod(balance)
    assert (result.failed, result.attempted) == (0, 1)
