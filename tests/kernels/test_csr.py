import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mfspark.kernels import csr
from mfspark.kernels.csr import build_in_block, group_by_block
from tests.kernels.strategies import kernel_property, rated, rated_rows


def triples_of(block):
    """(destination row, source row, rating) of each entry, in the order of the block."""
    rows = np.repeat(np.arange(block.rows.start, block.rows.stop), np.diff(block.offsets))
    return list(zip(rows.tolist(), block.src.tolist(), block.ratings.tolist(), strict=True))


def pieces_of(pieces):
    """The entries of each piece as a list of triples."""
    triples = list(zip(pieces.dst.tolist(), pieces.src.tolist(), pieces.ratings.tolist(), strict=True))
    return [triples[start:end] for start, end in zip(pieces.offsets[:-1], pieces.offsets[1:], strict=True)]


@kernel_property
@given(rated_rows())
def test_in_block_holds_exactly_the_ratings_ordered_by_row_source_and_rating(rows):
    assert triples_of(build_in_block(*rows)) == sorted(rows.triples)


@kernel_property
@given(rated_rows(), st.randoms(use_true_random=False))
def test_in_block_does_not_depend_on_order_of_arrival(rows, random):
    shuffled = rows.triples
    random.shuffle(shuffled)
    block, other = build_in_block(*rows), build_in_block(*rated(rows.first_row, rows.n_rows, shuffled))
    for array, other_array in zip(block[1:], other[1:], strict=True):
        assert array.tobytes() == other_array.tobytes()


def test_ratings_of_a_repeated_pair_are_all_kept_in_ascending_order():
    triples = [(0, 3, 5.0), (0, 3, 1.0), (0, 2, 9.0), (0, 3, 3.0), (0, 3, 1.0)]
    block = build_in_block(*rated(0, 1, triples))
    assert block.src.tolist() == [2, 3, 3, 3, 3]
    assert block.ratings.tolist() == [9.0, 1.0, 1.0, 3.0, 5.0]


def test_rows_without_ratings_at_start_middle_and_end_are_empty():
    block = build_in_block(*rated(0, 5, [(3, 0, 1.0), (1, 2, 2.0), (1, 0, 3.0)]))
    assert block.offsets.tolist() == [0, 0, 2, 2, 3, 3]
    assert block.n_rows == 5


def test_rows_are_counted_from_first_row():
    block = build_in_block(*rated(100, 3, [(102, 7, 1.0), (100, 4, 2.0)]))
    assert block.offsets.tolist() == [0, 1, 1, 2]
    assert block.src.tolist() == [4, 7]
    assert block.rows == slice(100, 103)


def test_block_without_ratings_has_only_empty_rows():
    block = build_in_block(*rated(5, 3, []))
    assert block.offsets.tolist() == [0, 0, 0, 0]
    assert (block.n_rows, block.src.size, block.ratings.size) == (3, 0, 0)


def test_block_without_rows_is_empty():
    block = build_in_block(*rated(5, 0, []))
    assert block.offsets.tolist() == [0]
    assert block.rows == slice(5, 5)


@pytest.mark.parametrize("triples", [[], [(2, 5, 1.5), (0, 1, 2.5)]], ids=["empty", "rated"])
def test_in_block_has_the_documented_types(triples):
    block = build_in_block(*rated(0, 3, triples))
    assert (block.offsets.dtype, block.src.dtype, block.ratings.dtype) == (np.int64, np.int32, np.float32)


def test_in_block_leaves_its_arguments_alone():
    rows = rated(0, 2, [(1, 3, 5.0), (1, 3, 1.0), (0, 2, 9.0)])
    before = rows.triples
    build_in_block(*rows)
    assert rows.triples == before


@kernel_property
@given(rated_rows(), st.lists(st.integers(0, 6), max_size=8))
def test_pieces_hold_each_rating_once_in_its_block_and_in_order_of_arrival(rows, inner_bounds):
    # Sorted random cuts: equal ones make empty blocks, and eight make more blocks than rows.
    inner = sorted(min(bound, rows.n_rows) + rows.first_row for bound in inner_bounds)
    bounds = np.array([rows.first_row, *inner, rows.first_row + rows.n_rows], np.int64)
    pieces = group_by_block(bounds, rows.dst, rows.src, rows.ratings)
    expected = [[triple for triple in rows.triples if start <= triple[0] < end] for start, end in pairwise(bounds)]
    assert pieces_of(pieces) == expected


def test_ratings_on_a_bound_go_to_the_block_that_starts_there():
    rows = rated(0, 4, [(2, 0, 1.0), (1, 1, 2.0), (3, 2, 3.0), (0, 3, 4.0), (2, 4, 5.0)])
    pieces = group_by_block(np.array([0, 2, 4]), rows.dst, rows.src, rows.ratings)
    assert pieces_of(pieces) == [[(1, 1, 2.0), (0, 3, 4.0)], [(2, 0, 1.0), (3, 2, 3.0), (2, 4, 5.0)]]


def test_blocks_beyond_the_number_of_rows_get_no_ratings():
    rows = rated(0, 2, [(1, 0, 1.0), (0, 1, 2.0)])
    pieces = group_by_block(np.array([0, 0, 1, 1, 2, 2]), rows.dst, rows.src, rows.ratings)
    assert pieces_of(pieces) == [[], [(0, 1, 2.0)], [], [(1, 0, 1.0)], []]


def test_no_ratings_make_empty_pieces():
    rows = rated(0, 4, [])
    pieces = group_by_block(np.array([0, 2, 4]), rows.dst, rows.src, rows.ratings)
    assert pieces.offsets.tolist() == [0, 0, 0]
    assert (pieces.dst.dtype, pieces.src.dtype, pieces.ratings.dtype) == (np.int32, np.int32, np.float32)


def test_in_blocks_of_pieces_equal_the_in_block_of_the_whole():
    random = np.random.default_rng(7)
    triples = list(zip(random.integers(0, 9, 60), random.integers(0, 5, 60), random.random(60), strict=True))
    rows, bounds = rated(0, 9, triples), np.array([0, 4, 4, 9])
    pieces = group_by_block(bounds, rows.dst, rows.src, rows.ratings)
    blocks = [
        build_in_block(first, end - first, pieces.dst[part], pieces.src[part], pieces.ratings[part])
        for first, end, part in (
            (bounds[p], bounds[p + 1], slice(pieces.offsets[p], pieces.offsets[p + 1])) for p in range(3)
        )
    ]
    whole = build_in_block(*rows)
    assert_array_equal(np.concatenate([block.src for block in blocks]), whole.src)
    assert_array_equal(np.concatenate([block.ratings for block in blocks]), whole.ratings)


def test_example_of_the_in_block_runs():
    result = doctest.testmod(csr)
    assert (result.failed, result.attempted) == (0, 2)
