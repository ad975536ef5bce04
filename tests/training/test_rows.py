"""Rows in parts, summed part by part, have the factors of whole ones; no JVM is started."""

import numpy as np
import pytest

from mfspark import ALS
from mfspark.training.als import AlternatingLeastSquares
from tests.builders import OBJECTIVES, skewed_ratings
from tests.local import columns_of, fit_without_spark

USERS, ITEMS, VALUES = skewed_ratings()
SPLIT = {**OBJECTIVES, "cg": {"solver": "cg", "cgSteps": 20}, "subspace": {"solver": "subspace"}}


def fit(*, blocks, max_iter=3, initial=None, **settings):
    """The model of the skewed ratings, those of one pair in five judging it."""
    weights = {"weight": VALUES + 1} if "weightCol" in settings else {}
    ratings = columns_of(USERS, ITEMS, VALUES, is_validation=USERS % 5 == ITEMS % 5, **weights)
    als = ALS(rank=4, maxIter=max_iter, seed=1, **settings).setNumBlocks(blocks)
    return fit_without_spark(als, ratings, n_parts=3, initial=initial)


@pytest.mark.parametrize("objective", SPLIT)
def test_rows_in_parts_have_the_factors_of_whole_ones(monkeypatch, objective):
    settings = {"regParam": 0.3, **SPLIT[objective]}
    expected = fit(blocks=3, **settings)
    monkeypatch.setattr("mfspark.blocks.index._LEAST_SPLIT", 8)
    summed = set()
    update_row = AlternatingLeastSquares.update_row
    monkeypatch.setattr(
        AlternatingLeastSquares,
        "update_row",
        lambda solver, side, sums, *args: summed.add((side, sums.row)) or update_row(solver, side, sums, *args),
    )
    found = fit(blocks=10, **settings)
    assert summed == {("user", 0), ("item", 0)}
    # Conjugate gradients and subspaces come nearer to what a row in parts is at once.
    rtol = 1e-4 if "solver" not in settings else 0.05
    assert found.ids == expected.ids
    np.testing.assert_allclose(found.X, expected.X, rtol=rtol, atol=5e-6)
    np.testing.assert_allclose(found.Y, expected.Y, rtol=rtol, atol=5e-6)
    for ours, whole in zip(found.summary.history, expected.summary.history, strict=True):
        for name in ("squared_error", "user_penalty", "item_penalty", "rmse", "validation_rmse"):
            wanted = getattr(whole, name)
            assert getattr(ours, name) == (wanted and pytest.approx(wanted, rel=1e-5, abs=1e-5)), name


@pytest.mark.parametrize("objective", ["biases", "implicit", "iALS"])
def test_training_with_rows_in_parts_goes_on_to_the_same_bytes(monkeypatch, objective):
    monkeypatch.setattr("mfspark.blocks.index._LEAST_SPLIT", 8)
    whole, half = (fit(blocks=10, max_iter=n, **OBJECTIVES[objective]) for n in (2, 1))
    resumed = fit(blocks=10, max_iter=1, initial=half, **OBJECTIVES[objective])
    assert (resumed.X.tobytes(), resumed.Y.tobytes()) == (whole.X.tobytes(), whole.Y.tobytes())
