"""Metrics, by hand and against Spark's."""

import math

import numpy as np
import pytest
from pyspark.ml.evaluation import RankingEvaluator
from pyspark.mllib.evaluation import RankingMetrics

from mfspark import evaluation
from tests.builders import model_of

pytestmark = pytest.mark.spark


def random_lists():
    """(recommended, relevant) of each user: lists of every length up to 6, some without a hit."""
    random = np.random.default_rng(4)
    for user in range(25):
        recommended = random.permutation(12)[: user % 7].tolist()
        yield user, recommended, random.permutation(12)[: 1 + user % 5].tolist()


@pytest.mark.classic
@pytest.mark.filterwarnings("ignore:Deprecated in 3.0.0:FutureWarning")  # what RankingMetrics itself still calls
@pytest.mark.parametrize("k", [3, 10])
def test_ranking_metrics_are_those_of_spark(spark, k):
    recommendations = spark.createDataFrame(
        [(user, [(item, 0.0) for item in items]) for user, items, _ in random_lists()],
        "user int, recommendations array<struct<item int, rating float>>",
    )
    relevant = spark.createDataFrame(
        [(user, item) for user, _, wanted in random_lists() for item in [*wanted, wanted[0]]], "user int, item int"
    )
    found = evaluation.ranking_metrics(recommendations, relevant, k)
    sparks = RankingMetrics(spark.sparkContext.parallelize([(list(a), list(b)) for _, a, b in random_lists()]))
    assert 0 < sparks.precisionAt(k) < 1
    hit_rate = np.mean([bool(set(items[:k]) & set(wanted)) for _, items, wanted in random_lists()])
    assert found == pytest.approx(
        {
            "n_users": 25,
            f"ndcg_at_{k}": sparks.ndcgAt(k),
            f"precision_at_{k}": sparks.precisionAt(k),
            f"recall_at_{k}": sparks.recallAt(k),
            f"map_at_{k}": sparks.meanAveragePrecisionAt(k),
            f"hit_rate_at_{k}": hit_rate,
        }
    )


def test_ranking_metrics_by_hand(spark):
    recommendations = spark.createDataFrame(
        [("a", [("x",), ("y",), ("z",), ("w",)]), ("b", [("z",)]), ("d", [])],
        "who string, recommendations array<struct<what string>>",
    )
    relevant = spark.createDataFrame(
        [("a", "y"), ("a", "w"), ("a", "q"), ("a", "p"), ("b", "z"), ("c", "x"), ("d", "x")], "who string, what string"
    )
    # a: hits at the places 2 and 4, of four relevant items; b: a hit at place 1, of one; c has no list; d an empty one.
    found = evaluation.ranking_metrics(recommendations, relevant, 4, user="who", item="what")
    log2 = math.log2
    ndcg_a = (1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / log2(4) + 1 / log2(5))
    assert found == {
        "n_users": 3,
        "ndcg_at_4": pytest.approx((ndcg_a + 1) / 3),
        "precision_at_4": pytest.approx((2 / 4 + 1 / 4) / 3),
        "recall_at_4": pytest.approx((2 / 4 + 1) / 3),
        "map_at_4": pytest.approx(((1 / 2 + 2 / 4) / 4 + 1) / 3),
        "hit_rate_at_4": pytest.approx(2 / 3),
    }
    nobody = evaluation.ranking_metrics(recommendations, relevant.where("who = 'c'"), 4, user="who", item="what")
    assert nobody["n_users"] == 0
    assert {value for name, value in nobody.items() if name != "n_users"} == {None}


def test_catalogue_metrics_by_hand(spark):
    train = spark.createDataFrame([("x",)] * 4 + [("y",)] * 2 + [("z",)] + [("w",)], "item string")
    recommendations = spark.createDataFrame(
        [(1, [("x",), ("y",), ("w",)]), (2, [("y",), ("unknown",)])],
        "user int, recommendations array<struct<item string>>",
    )
    # Of 8 ratings x has a half, y a quarter: 1, 2 and 2 bits. w is beyond the second place, z in no list.
    found = evaluation.catalogue_metrics(recommendations, train, 2)
    assert found == {"coverage_at_2": pytest.approx(2 / 4), "novelty_at_2": pytest.approx((1 + 2 + 2) / 3)}
    nothing = evaluation.catalogue_metrics(recommendations.where("user > 2"), train, 2)
    assert nothing == {"coverage_at_2": 0.0, "novelty_at_2": None}


def test_rating_metrics_leave_unknown_pairs_out_and_count_them(spark):
    predictions = spark.createDataFrame(
        [(4.0, 3.0), (1.0, 1.5), (2.0, 5.0), (5.0, float("nan"))], "stars float, guess float"
    )
    found = evaluation.rating_metrics(predictions, "stars", "guess")
    assert found == {
        "n_pairs": 4,
        "n_unknown": 1,
        "rmse": pytest.approx(((1 + 0.25 + 9) / 3) ** 0.5),
        "mae": pytest.approx(4.5 / 3),
    }
    unknown = evaluation.rating_metrics(predictions.where("isnan(guess)"), "stars", "guess")
    assert unknown == {"n_pairs": 1, "n_unknown": 1, "rmse": None, "mae": None}


def test_rankings_have_the_shape_that_sparks_evaluator_wants(spark):
    users, items = {0: [6, 4], 1: [3, 4], 2: [3, 6]}, {3: [5, 6], 4: [6, 2], 5: [3, 6], 6: [4, 1]}
    model = model_of(spark, users, items)
    # u0 gets 3, 4, u1 and u2 get 3, 5; relevant are 4 of u0, 3 and 5 of u1, nothing of u2.
    relevant = spark.createDataFrame([(0, 4), (1, 3), (1, 5)], "user int, item int")
    pairs = model.rankingPairs(model.recommendForAllUsers(2), relevant)
    assert pairs.schema.simpleString() == "struct<prediction:array<double>,label:array<double>>"
    judge = RankingEvaluator(k=2, metricName="precisionAtK")
    assert judge.evaluate(pairs) == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert judge.setMetricName("meanAveragePrecisionAtK").evaluate(pairs) == pytest.approx((1 / 2 + 1) / 2)
