"""Blocks are kept as long as a training needs them."""

import pytest

from mfspark.blocks.blocked import BlockedRatings
from tests.conftest import BOTH_WIDE

pytestmark = pytest.mark.spark


def test_older_factors_are_dropped_while_training_goes_on(wide_ratings, fit_wide, monkeypatch):
    kept = []
    original = BlockedRatings.drop_all_but
    monkeypatch.setattr(
        BlockedRatings,
        "drop_all_but",
        lambda blocked, wanted: original(blocked, wanted) or kept.append(len(blocked._kept)),
    )
    fit_wide(wide_ratings, max_iter=4, maxBroadcastBytes=BOTH_WIDE)
    assert kept == [2, 2, 2, 2, 0]
