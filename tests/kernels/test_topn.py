import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mfspark.kernels.topn import top_n
from tests import naive
from tests.kernels.strategies import kernel_property

# Spark's ALSSuite, 'recommendForAllUsers': items 3, 4, 5, 6 stand at 0, 1, 2, 3.
SPARK_USERS = np.array([[6, 4], [3, 4], [3, 6]], np.float32)
SPARK_ITEMS = np.array([[5, 6], [6, 2], [3, 6], [4, 1]], np.float32)
SPARK_BEST = [
    [(0, 54), (1, 44), (2, 42), (3, 28)],
    [(0, 39), (2, 33), (1, 26), (3, 16)],
    [(0, 51), (2, 45), (1, 30), (3, 18)],
]


def recommend(users, items, n, seen=None):
    """(item, score) of each user's list; seen is a list of items a user."""
    seen = seen or [[] for _ in users]
    seen_offsets = np.cumsum([0, *map(len, seen)]).astype(np.int64)
    seen_items = np.array([item for row in seen for item in sorted(row)], np.int32)
    best = top_n(users, items, n, seen_offsets, seen_items)
    assert (best.offsets.dtype, best.items.dtype, best.scores.dtype) == (np.int32, np.int32, np.float32)
    pairs = list(zip(best.items.tolist(), best.scores.tolist(), strict=True))
    return [pairs[start:end] for start, end in zip(best.offsets[:-1], best.offsets[1:], strict=True)]


def naive_recommend(users, items, n, seen):
    scores = users.astype(np.float64) @ items.T.astype(np.float64)
    best = naive.top_n(scores, n, seen)
    return [[(item, scores[user, item]) for item in row] for user, row in enumerate(best)]


@st.composite
def integer_cases(draw):
    """Small integers: scores are exact in float32 and ties are frequent."""
    n_users, n_items, rank = draw(st.integers(1, 5)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    small = st.integers(-2, 2)
    users = draw(st.lists(small, min_size=n_users * rank, max_size=n_users * rank))
    items = draw(st.lists(small, min_size=n_items * rank, max_size=n_items * rank))
    seen = draw(st.lists(st.lists(st.integers(0, n_items - 1)), min_size=n_users, max_size=n_users))
    return (
        np.array(users, np.float32).reshape(n_users, rank),
        np.array(items, np.float32).reshape(n_items, rank),
        draw(st.integers(1, n_items + 3)),
        seen,
    )


@kernel_property
@given(integer_cases())
def test_lists_equal_a_stable_sort_of_the_unseen_items(case):
    assert recommend(*case) == naive_recommend(*case)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 100])
def test_lists_equal_those_of_sparks_suite(n):
    assert recommend(SPARK_USERS, SPARK_ITEMS, n) == [best[:n] for best in SPARK_BEST]


def test_of_equal_scores_the_lower_item_comes_first_and_stays():
    ones = np.ones((1, 1), np.float32)
    items = np.array([[1], [2], [1], [2], [2]], np.float32)
    assert recommend(ones, items, 2) == [[(1, 2), (3, 2)]]
    assert recommend(ones, items, 4) == [[(1, 2), (3, 2), (4, 2), (0, 1)]]


def test_best_items_that_come_last_push_out_the_others():
    items = np.arange(50, dtype=np.float32)[:, None]
    assert recommend(np.ones((1, 1), np.float32), items, 3) == [[(49, 49), (48, 48), (47, 47)]]


@pytest.mark.parametrize(("n", "lengths"), [(1, [1, 1, 0, 1]), (3, [3, 2, 0, 1]), (4, [4, 2, 0, 1]), (9, [4, 2, 0, 1])])
def test_lists_have_exactly_n_or_all_unseen_items(n, lengths):
    users = np.array([[1, 1], [2, -1], [1, 0], [-1, -1]], np.float32)
    seen = [[], [3, 0], [2, 0, 3, 1], [1, 2, 1, 0]]
    lists = recommend(users, SPARK_ITEMS, n, seen)
    assert [len(row) for row in lists] == lengths
    for row, row_seen in zip(lists, seen, strict=True):
        assert not {item for item, _ in row} & set(row_seen)


def test_user_who_has_seen_all_gets_none():
    assert recommend(SPARK_USERS, SPARK_ITEMS, 4, [[3, 1, 0, 2], [], [0, 1, 2, 3]]) == [[], SPARK_BEST[1], []]


def test_unseen_items_of_negative_score_are_recommended():
    assert recommend(-SPARK_USERS[:1], SPARK_ITEMS, 2, [[3]]) == [[(2, -42), (1, -44)]]


@pytest.mark.parametrize("n_users", [63, 64, 65, 200])
def test_users_beyond_one_tile_get_their_own_lists(n_users):
    random = np.random.default_rng(n_users)
    users = random.integers(-3, 4, (n_users, 4)).astype(np.float32)
    items = random.integers(-3, 4, (15, 4)).astype(np.float32)
    seen = [random.choice(15, size=user % 16, replace=False).tolist() for user in range(n_users)]
    assert recommend(users, items, 5, seen) == naive_recommend(users, items, 5, seen)


def integers_in_order(order):
    """Factors of 70 users and 1,000 items, whose scores are exact and often equal; the first user's are in order."""
    random = np.random.default_rng(3)
    users = random.integers(-3, 4, (70, 3)).astype(np.float32)
    items = random.integers(-9, 10, (1000, 3)).astype(np.float32)
    users[0] = [1, 0, 0]
    ascending = np.sort(items[:, 0])
    items[:, 0] = {"any": items[:, 0], "ascending": ascending, "descending": ascending[::-1], "equal": 2}[order]
    return users, items


@pytest.mark.parametrize("order", ["any", "ascending", "descending", "equal"])
@pytest.mark.parametrize("n", [1, 2, 10, 31, 32, 33, 100, 484, 499, 500, 999, 1000, 1001, 5000])
def test_lists_of_any_length_equal_a_stable_sort(n, order):
    users, items = integers_in_order(order)
    random = np.random.default_rng(n)
    seen = [random.choice(1000, size=size, replace=False).tolist() for size in range(0, 980, 14)]
    assert recommend(users, items, n, seen) == naive_recommend(users, items, n, seen)


@pytest.mark.parametrize("n", [1, 3, 40, 100, 300])
def test_items_whose_score_is_no_number_or_minus_infinity_are_left_out(n):
    scores = np.random.default_rng(5).integers(-50, 50, 200).astype(np.float32)
    scores[[0, 7, 64, 199]], scores[[3, 90]], scores[[1, 65, 198]] = np.nan, np.inf, -np.inf
    left_out = [0, 7, 64, 199, 1, 65, 198]
    seen = [[], [90, 11]]
    best = naive.top_n(
        np.stack([np.nan_to_num(scores, nan=-np.inf, posinf=np.inf)] * 2), n, [left_out, left_out + seen[1]]
    )
    assert best[0][:2] == [3, 90][:n]
    lists = recommend(np.ones((2, 1), np.float32), scores[:, None], n, seen)
    assert lists == [[(item, scores[item]) for item in row] for row in best]


@pytest.mark.parametrize("n", [5, 40, 200])
def test_scores_that_differ_in_the_last_bit_are_in_order(n):
    random = np.random.default_rng(n)
    some = np.array([0, 1e-45, 1e-38, 0.1, 1, 3e38], np.float32)
    near = np.concatenate([some, np.nextafter(some, np.float32(np.inf)), np.nextafter(some, np.float32(-np.inf))])
    scores = random.permutation(np.concatenate([near, -near] * 5))
    ones = np.ones((1, 1), np.float32)
    assert recommend(ones, scores[:, None], n) == naive_recommend(ones, scores[:, None], n, [[]])


def test_no_users_get_no_lists():
    assert recommend(np.ones((0, 2), np.float32), SPARK_ITEMS, 3) == []


def test_no_items_give_empty_lists():
    assert recommend(SPARK_USERS, np.ones((0, 2), np.float32), 3) == [[], [], []]


def test_factors_are_left_alone():
    users, items = SPARK_USERS.copy(), SPARK_ITEMS.copy()
    recommend(users, items, 2, [[0], [1], [2]])
    assert_array_equal(users, SPARK_USERS)
    assert_array_equal(items, SPARK_ITEMS)
