"""Contributions of a user's ratings to a prediction."""

import numpy as np
import pytest

from mfspark import ALS
from mfspark.errors import ConfigError, DataError
from tests.builders import random_ratings, ratings_table

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=6, n_users=25, n_items=14, n_ratings=170)


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"biases": True, "biasRegParam": 0.3},
        {"implicitPrefs": True, "alpha": 2.0},
        {"implicitPrefs": True, "unobservedWeight": 0.2, "regScaling": 0.5},
        {"weightCol": "rating"},
    ],
)
def test_contributions_of_a_users_ratings_add_up_to_the_prediction(spark, ratings, settings):
    model = ALS(rank=4, maxIter=3, **settings).fit(ratings)
    biases = {row.id: row.bias for row in model.itemFactors.collect()} if "biases" in settings else {}
    pairs = [(0, 3), (7, 0), (11, 11)]
    scored = model.transform(spark.createDataFrame(pairs, "user int, item int")).collect()
    predictions = {(row.user, row.item): row.prediction for row in scored}
    for user, item in pairs:
        found = model.explain(ratings, user, item).collect()
        assert {row.item for row in found} == set(ITEMS[np.equal(USERS, user)].tolist())
        contributions = [row.contribution for row in found]
        assert contributions == sorted(contributions, reverse=True)
        prediction = predictions[user, item]
        if biases:
            prediction -= model.globalMean + biases[item]
        assert sum(contributions) == pytest.approx(prediction, rel=1e-4, abs=1e-4)


def test_ratings_of_items_that_the_model_does_not_know_are_ignored(ratings):
    model = ALS(rank=2, maxIter=2).fit(ratings)
    known = ratings.where("user < 5").selectExpr("user", "cast(item AS double) AS item", "rating")
    others = known.selectExpr("user", "item + 0.5", "rating").union(known.selectExpr("user", "item + 1e10", "rating"))
    expected = model.explain(known, 3, 1).collect()
    assert {row.item for row in expected} == set(ITEMS[USERS == 3].tolist())
    assert model.explain(known.union(others), 3, 1).collect() == expected


@pytest.mark.parametrize("is_implicit", [False, True])
def test_what_cannot_be_explained_is_refused(ratings, is_implicit):
    model = ALS(rank=2, maxIter=1, implicitPrefs=is_implicit).fit(ratings)
    for item, shown in ((99, "99"), ("three", "'three'"), (2**40, "1099511627776")):
        with pytest.raises(DataError, match=f"no factors for item {shown}"):
            model.explain(ratings, 3, item)
    for user in (99, "three", None):
        with pytest.raises(DataError, match="this user rated no item that the model knows"):
            model.explain(ratings, user, 3)


def test_nonnegative_factors_cannot_be_explained(ratings):
    with pytest.raises(ConfigError, match="not a sum over ratings"):
        ALS(rank=2, maxIter=1, nonnegative=True).fit(ratings).explain(ratings, 0, 0)
