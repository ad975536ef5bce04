import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfspark.kernels import csr
from mfspark.kernels.csr import build_in_block, build_packed_block, group_by_block, index_type, pack_weights
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
    for array, other_array in zip(block[1:4], other[1:4], strict=True):
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
@given(rated_rows(), st.integers(1, 9), st.integers(0, 9))
def test_pieces_hold_each_rating_once_in_its_block_and_in_order_of_arrival(rows, n_blocks, seed):
    blocks = np.random.default_rng(seed).integers(0, n_blocks, rows.dst.size).astype(np.int32)
    pieces = group_by_block(blocks, n_blocks, rows.dst, rows.src, rows.ratings)
    expected = [
        [triple for triple, block in zip(rows.triples, blocks, strict=True) if block == number]
        for number in range(n_blocks)
    ]
    assert pieces_of(pieces) == expected


def test_no_ratings_make_empty_pieces():
    rows = rated(0, 4, [])
    pieces = group_by_block(np.empty(0, np.int32), 2, rows.dst, rows.src, rows.ratings)
    assert pieces.offsets.tolist() == [0, 0, 0]
    assert (pieces.dst.dtype, pieces.src.dtype, pieces.ratings.dtype) == (np.int32, np.int32, np.float32)


@kernel_property
@given(rated_rows(), st.sampled_from([65_536, 65_537]), st.booleans())
def test_a_packed_block_unpacks_to_the_in_block(rows, n_src, has_codes):
    values = np.unique(rows.ratings) if has_codes else None
    ratings = np.searchsorted(values, rows.ratings).astype(np.uint8) if has_codes else rows.ratings
    packed = build_packed_block(rows.first_row, rows.n_rows, n_src, rows.dst, rows.src, ratings, values)
    assert packed.ratings.dtype == (np.uint8 if has_codes else np.float32)
    block, expected = packed.unpack(), build_in_block(*rows)
    assert block.first_row == expected.first_row
    assert block.weights is None
    for array, other in zip(block[1:4], expected[1:4], strict=True):
        assert array.dtype == other.dtype
        assert array.tobytes() == other.tobytes()


@pytest.mark.parametrize("has_codes", [False, True])
def test_weights_stay_with_their_ratings(has_codes):
    dst, src = np.array([1, 0, 1, 1], np.int32), np.array([4, 2, 0, 4], np.int32)
    ratings, weights = np.array([-5, 3, 1, -5], np.float32), np.array([2, 0.5, 7, 1], np.float32)
    packed = pack_weights(ratings, weights)
    table = np.unique(packed) if has_codes else None
    codes = np.searchsorted(table, packed).astype(np.uint8) if has_codes else packed
    block = build_packed_block(0, 2, 5, dst, src, codes, table).unpack()
    assert block.offsets.tolist() == [0, 1, 4]
    assert block.src.tolist() == [2, 0, 4, 4]
    assert sorted(zip(block.ratings.tolist(), block.weights.tolist(), strict=True)) == [
        (-5, 1), (-5, 2), (1, 7), (3, 0.5),
    ]  # fmt: skip
    assert block.weights[0] == 0.5
    assert block.weights[1] == 7


def test_row_sums_of_values_and_of_ones():
    block = build_in_block(*rated(0, 3, [(0, 1, 2.0), (2, 1, 3.0), (2, 4, 4.0)]))
    assert block.row_sums(None).tolist() == [1, 0, 2]
    assert block.row_sums(np.array([5, 6, 7], np.float32)).tolist() == [5, 0, 13]


def test_indices_take_two_bytes_while_all_of_them_fit():
    assert index_type(65_536) == np.uint16
    assert index_type(65_537) == np.int32


def test_example_of_the_in_block_runs():
    result = doctest.testmod(csr)
    assert (result.failed, result.attempted) == (0, 2)
