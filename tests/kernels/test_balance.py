import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mfspark.kernels import balance
from mfspark.kernels.balance import cut_evenly, cut_rows
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


def test_examples_run():
    result = doctest.testmod(balance)
    assert (result.failed, result.attempted) == (0, 3)


@kernel_property
@given(weight_lists, st.integers(1, 40), st.integers(0, 50))
@example([0, 0, 100, 1, 1], 10, 5)
@example([100], 4, 5)
def test_every_row_has_one_block_or_is_split(weights, n_blocks, least):
    ranges = cut_rows(np.array(weights, np.int64), n_blocks, least)
    assert ranges.n_rows == len(weights)
    parts = {row: [] for row in range(len(weights))}
    for block in range(ranges.n_blocks):
        for row in ranges.rows_of(block):
            parts[row].append(block)
            assert (row in ranges.split_rows) == ranges.is_part(block)
    share = max(1, -(-sum(weights) // n_blocks))
    for row, blocks in parts.items():
        is_heavy = weights[row] > max(2 * share, least)
        assert len(blocks) == (-(-weights[row] // share) if is_heavy else 1)
        assert blocks[0] == ranges.blocks_of(np.array([row]))[0]
    assert sorted(ranges.used) == sorted({block for blocks in parts.values() for block in blocks})
    # At most half a block more for each stretch between heavy rows, and for each of these.
    assert ranges.n_blocks <= n_blocks + 2 * len(ranges.split_rows) + 1


def test_entries_of_a_split_row_are_shared_out_by_the_other_index():
    ranges = cut_rows(np.array([1, 1, 9, 1, 1, 1]), 5, least=4)
    rows, others = np.array([0, 2, 2, 2, 2, 5], np.int32), np.array([9, 0, 1, 2, 3, 9], np.int32)
    assert ranges.blocks_of_entries(rows, others).tolist() == [0, 1, 2, 3, 1, 4]


def test_a_row_is_split_only_where_it_is_a_bottleneck():
    weights = np.array([5, 100, 5])
    assert cut_rows(weights, 5, least=100).split_rows.tolist() == []
    assert cut_rows(weights, 2, least=0).split_rows.tolist() == []
    assert cut_rows(weights, 5, least=99).split_rows.tolist() == [1]
