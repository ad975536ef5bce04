"""Baselines: what is popular, and the mean with the biases."""

import math

import pytest

from mfspark import evaluation

pytestmark = pytest.mark.spark


def test_the_popular_lists_have_their_known_values(spark):
    # Item i of 0 .. 5 has 6 - i ratings: users 0 .. 5 - i. Each user's best are the popular ones not rated yet.
    train = spark.createDataFrame([(user, item) for item in range(6) for user in range(6 - item)], "user int, item int")
    lists = evaluation.popular_lists(train, 2)
    found = {row.user: [entry.item for entry in row.recommendations] for row in lists.collect()}
    assert found == {0: [], 1: [5], 2: [4, 5], 3: [3, 4], 4: [2, 3], 5: [1, 2]}
    # Relevant: the second of the list of 2 .. 5, which nobody else gets first.
    relevant = spark.createDataFrame([(2, 5), (3, 4), (4, 3), (5, 2)], "user int, item int")
    assert evaluation.ranking_metrics(lists, relevant, 2) == {
        "n_users": 4,
        "ndcg_at_2": pytest.approx(1 / math.log2(3)),
        "precision_at_2": pytest.approx(1 / 2),
        "recall_at_2": pytest.approx(1),
        "map_at_2": pytest.approx(1 / 2),
        "hit_rate_at_2": pytest.approx(1),
    }
    strangers = evaluation.popular_lists(train, 2, users=spark.createDataFrame([(9,), (9,)], "user int"))
    assert [(row.user, [entry.item for entry in row.recommendations]) for row in strangers.collect()] == [(9, [0, 1])]


def test_mean_and_biases_by_hand(spark):
    train = spark.createDataFrame([(1, "x", 5.0), (1, "y", 3.0), (2, "x", 4.0)], "user int, item string, rating double")
    pairs = spark.createDataFrame([(1, "x"), (2, "y"), (3, "y"), (2, "z")], "user int, item string")
    # μ = 4; b_x = (1 + 0)/(25 + 2), b_y = -1/(25 + 1); b_1 = (1 - b_x - 1 - b_y)/(10 + 2), b_2 = (0 - b_x)/(10 + 1).
    x, y = 1 / 27, -1 / 26
    one, two = (-x - y) / 12, -x / 11
    found = {(row.user, row.item): row.prediction for row in evaluation.mean_and_biases(train, pairs).collect()}
    assert found == pytest.approx({(1, "x"): 4 + x + one, (2, "y"): 4 + y + two, (3, "y"): 4 + y, (2, "z"): 4 + two})
