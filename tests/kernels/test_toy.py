"""The 3 × 3 matrix that can be checked by hand, through the kernels alone."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mfspark.kernels.csr import build_in_block
from mfspark.kernels.topn import top_n
from tests.builders import TOY_ITEM_FACTORS, TOY_RATINGS, TOY_USER_FACTORS
from tests.kernels.explicit import penalty, squared_error

USERS, ITEMS = (np.array(ids, np.int32) - 1 for ids in list(zip(*TOY_RATINGS, strict=True))[:2])
RATINGS = np.array([rating for _, _, rating in TOY_RATINGS], np.float32)
BY_USER = build_in_block(0, 3, USERS, ITEMS, RATINGS)
BY_ITEM = build_in_block(0, 3, ITEMS, USERS, RATINGS)
UV = [[2.00, 1.13, 0.77], [1.62, 0.93, 0.49], [0.74, 0.29, 1.45]]


def test_scores_of_all_cells_are_the_products_of_the_factors():
    nothing_seen = np.zeros(4, np.int32)
    best = top_n(TOY_USER_FACTORS, TOY_ITEM_FACTORS, 3, nothing_seen, np.empty(0, np.int32))
    scores = np.empty((3, 3))
    scores[np.repeat(np.arange(3), 3), best.items] = best.scores
    assert_allclose(scores, UV, atol=1e-6)


@pytest.mark.parametrize(("user", "item", "prediction"), [(1, 3, 0.77), (2, 2, 0.93), (3, 1, 0.74)])
def test_only_the_unknown_cell_of_each_user_is_recommended(user, item, prediction):
    best = top_n(TOY_USER_FACTORS, TOY_ITEM_FACTORS, 3, BY_USER.offsets.astype(np.int32), BY_USER.src)
    assert best.offsets.tolist() == [0, 1, 2, 3]
    assert best.items[user - 1] + 1 == item
    assert best.scores[user - 1] == pytest.approx(prediction, abs=1e-6)


def test_squared_error_of_the_observed_cells():
    # 3.00² + 1.87² + 2.38² + 0.51² + 1.71² + 3.55²
    assert squared_error(BY_USER, TOY_USER_FACTORS, TOY_ITEM_FACTORS) == pytest.approx(33.948, abs=1e-5)


def test_squared_error_is_the_same_from_either_side():
    from_items = squared_error(BY_ITEM, TOY_ITEM_FACTORS, TOY_USER_FACTORS)
    assert from_items == pytest.approx(33.948, abs=1e-5)


def test_penalty_of_both_sides_is_that_of_the_observed_pairs():
    # users 2·(1.69 + 1.09 + 1.25), items 2·(2.41 + 0.82 + 1.70)
    assert penalty(BY_USER, TOY_USER_FACTORS) == pytest.approx(8.06, abs=1e-5)
    assert penalty(BY_ITEM, TOY_ITEM_FACTORS) == pytest.approx(9.86, abs=1e-5)
    both = penalty(BY_USER, TOY_USER_FACTORS) + penalty(BY_ITEM, TOY_ITEM_FACTORS)
    assert both == pytest.approx(17.92, abs=1e-5)
