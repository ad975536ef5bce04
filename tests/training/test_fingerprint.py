"""A checkpoint of other ratings is refused, by what is different; no JVM is started."""

import numpy as np
import pyarrow as pa
import pytest

from mfspark import ALS
from mfspark.errors import DataError
from tests.builders import random_ratings
from tests.local import MemoryStore, columns_of, fit_without_spark

USERS, ITEMS, VALUES = random_ratings(seed=12, n_users=30, n_items=15, n_ratings=200)
RATINGS = columns_of(USERS, ITEMS, VALUES)
SWAPPED = np.arange(len(VALUES))
SWAPPED[[0, np.flatnonzero(VALUES[0] != VALUES)[0]]] = SWAPPED[[np.flatnonzero(VALUES[0] != VALUES)[0], 0]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (RATINGS.filter(USERS != 3), r"users \(30 then, 29 now\)"),
        (RATINGS.filter((USERS != 0) | (ITEMS != 0)), r"ratings \(200 then, 199 now\)"),
        (
            columns_of(USERS, ITEMS, VALUES + 1),
            r"made with other ratings: mean rating \(([\d.]+) then, [\d.]+ now\); use the same ratings",
        ),
        (
            columns_of(100 - USERS, ITEMS, VALUES),
            r"made with other ratings: ratings digest .*, user ids and counts \('\w{64}' then, '\w{64}' now\); use",
        ),
        (columns_of(USERS, pa.array(ITEMS, pa.int64()), VALUES), "made with other ratings: item ids and counts"),
        (
            columns_of(USERS, ITEMS, VALUES[SWAPPED]),
            r"made with other ratings: ratings digest \(\d+ then, \d+ now\); use",
        ),
        (None, r"made with other ratings: initial items \(None then, '\w{64}' now\), initial users \(None then, '"),
    ],
    ids=[
        "a user less",
        "a rating less",
        "higher ratings",
        "other user ids",
        "wider item ids",
        "swapped ratings",
        "an initial model",
    ],
)
def test_other_ratings_are_refused_by_what_is_different(other, message):
    als, store = ALS(rank=3, maxIter=1), MemoryStore()
    model = fit_without_spark(als, RATINGS, checkpoints=store.checkpoints(1))
    initial = model if other is None else None
    with pytest.raises(DataError, match=message):
        fit_without_spark(als, RATINGS if other is None else other, initial=initial, checkpoints=store.checkpoints(1))


def test_the_same_ratings_in_another_order_are_no_other_ratings():
    als, store = ALS(rank=3, maxIter=1), MemoryStore()
    fit_without_spark(als, RATINGS, checkpoints=store.checkpoints(1))
    fit_without_spark(als, RATINGS.take(np.argsort(VALUES)), n_parts=3, checkpoints=store.checkpoints(1))
    assert store.iterations == [1]
