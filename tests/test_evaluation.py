"""Splits, metrics and baselines, for a user who has any DataFrame."""

import math

import numpy as np
import pytest
from pyspark.mllib.evaluation import RankingMetrics
from pyspark.sql import functions as F

from mfspark import evaluation
from mfspark.errors import ConfigError, DataError, SchemaError

pytestmark = pytest.mark.spark

N_USERS = 40
SEED = 5


def history():
    """(user, item, rating, at): users of 1 to 20 items, many at the same moment, one pair in ten rated twice."""
    random = np.random.default_rng(2)
    rows = []
    for user in range(N_USERS):
        for item in random.choice(60, size=1 + user // 2, replace=False).tolist():
            for _ in range(1 + (item % 10 == 0)):
                rows.append((user, f"item {item}", float(random.integers(1, 6)), int(random.integers(0, 30))))
    return rows


SCHEMA = "user int, item string, rating float, at long"
NAMES = {"timestamp": "at"}


def parts_of(ratings, method, **settings):
    """{(user, item): part}; fails where a pair has two."""
    found = {}
    for row in evaluation.split(ratings, method, **settings).collect():
        assert found.setdefault((row.user, row.item), row.part) == row.part
    return found


def pair_times():
    """The latest moment of each pair."""
    times = {}
    for user, item, _, at in history():
        times[user, item] = max(at, times.get((user, item), -1))
    return times


@pytest.fixture(scope="module")
def ratings(spark_session):
    return spark_session.createDataFrame(history(), SCHEMA)


METHODS = [
    ("random", {"holdout": 0.3, "validation": 0.2, "seed": SEED}),
    ("random_per_user", {"holdout": 0.3, "validation": 0.2, "seed": SEED}),
    ("leave_last", {**NAMES, "holdout_items": 2, "validation_items": 1, "seed": SEED}),
    ("time", {**NAMES, "holdout": 0.3, "validation": 0.2}),
]


@pytest.mark.parametrize(("method", "settings"), METHODS, ids=[name for name, _ in METHODS])
def test_parts_depend_on_the_ratings_alone(spark, ratings, method, settings):
    found = parts_of(ratings, method, **settings)
    assert set(found.values()) == {"train", "validation", "holdout"}
    scattered = spark.createDataFrame(history()[::-1], SCHEMA).repartition(7, "rating")
    assert parts_of(scattered, method, **settings) == found


@pytest.mark.parametrize(("method", "settings"), METHODS[:3], ids=[name for name, _ in METHODS[:3]])
def test_the_seed_draws_the_lots(ratings, method, settings):
    assert parts_of(ratings, method, **settings) != parts_of(ratings, method, **{**settings, "seed": SEED + 1})


def count_by_user(parts, part):
    return [sum(user == row and found == part for (user, _), found in parts.items()) for row in range(N_USERS)]


def test_random_per_user_takes_the_shares_of_each_user_and_leaves_one_to_train(ratings):
    found = parts_of(ratings, "random_per_user", holdout=0.25, validation=0.25, seed=SEED)
    n_pairs = np.array([1 + row // 2 for row in range(N_USERS)])
    half_up = np.floor([n_pairs * 0.25 + 0.5, n_pairs * 0.5 + 0.5]).astype(int)
    n_holdout, n_judged = np.minimum(half_up, n_pairs - 1)
    assert count_by_user(found, "holdout") == n_holdout.tolist()
    assert count_by_user(found, "validation") == (n_judged - n_holdout).tolist()


def test_leave_last_takes_the_latest_of_each_user(ratings):
    found = parts_of(ratings, "leave_last", **NAMES, holdout_items=2, validation_items=1, seed=SEED)
    times = pair_times()
    assert count_by_user(found, "holdout") == [min(2, row // 2) for row in range(N_USERS)]
    assert count_by_user(found, "validation") == [min(1, max(0, row // 2 - 2)) for row in range(N_USERS)]
    for user in range(N_USERS):
        at = {part: [times[pair] for pair in found if pair[0] == user and found[pair] == part]
              for part in ("train", "validation", "holdout")}  # fmt: skip
        assert max(at["train"]) <= min(at["validation"], default=99)
        assert max([*at["train"], *at["validation"]]) <= min(at["holdout"], default=99)


def test_time_cuts_between_two_moments(ratings):
    found, times = parts_of(ratings, "time", **NAMES, holdout=0.3, validation=0.2), pair_times()
    moments = [times[user, item] for user, item, _, _ in history()]
    first = {part: min(times[pair] for pair in found if found[pair] == part) for part in ("validation", "holdout")}
    for pair, part in found.items():
        expected = "holdout" if times[pair] >= first["holdout"] else "validation"
        assert part == (expected if times[pair] >= first["validation"] else "train")
    # The most that whole moments allow.
    for start, share in ((first["holdout"], 0.3), (first["validation"], 0.5)):
        assert sum(moment >= start for moment in moments) <= share * len(moments)
        earlier = max(moment for moment in moments if moment < start)
        assert sum(moment >= earlier for moment in moments) > share * len(moments)


@pytest.mark.parametrize("type_", ["timestamp", "date", "string", "decimal(20,3)", "double"])
def test_time_has_any_type_with_an_order(spark, type_):
    at = F.col("id").cast("long")
    at = F.format_string("%03d", at) if type_ == "string" else (at * 86_400).cast("timestamp_ltz") if type_ in (
        "timestamp", "date") else at  # fmt: skip
    ratings = spark.range(100).select(
        (F.col("id") % 9).alias("user"), F.col("id").alias("item"), at.cast(type_).alias("at")
    )
    found = parts_of(ratings, "time", **NAMES, holdout=0.1, validation=0.2)
    assert {item for (_, item), part in found.items() if part == "holdout"} == set(range(90, 100))
    assert {item for (_, item), part in found.items() if part == "validation"} == set(range(70, 90))


def test_time_that_cannot_be_cut_is_refused(spark):
    ratings = spark.range(20).selectExpr("id AS user", "id AS item", "if(id < 5, 1, 2) AS at")
    with pytest.raises(DataError, match="cannot split by time: more than 10 of 20 ratings have the latest timestamp"):
        evaluation.split(ratings, "time", **NAMES, holdout=0.5)
    found = parts_of(ratings, "time", **NAMES, holdout=0.75)
    assert sum(part == "holdout" for part in found.values()) == 15


@pytest.mark.parametrize(("to_fold", "names"), [("int", (1, 2)), ("string", ("1", "2"))])
def test_given_folds_are_the_parts(spark, to_fold, names):
    ratings = spark.range(12).selectExpr("id AS user", "id AS item", f"cast(id % 4 AS {to_fold}) AS fold")
    found = parts_of(ratings, "column", fold="fold", holdout_fold=names[0], validation_fold=names[1])
    expected = {0: "train", 1: "holdout", 2: "validation", 3: "train"}
    assert found == {(row, row): expected[row % 4] for row in range(12)}


def test_folds_that_are_not_there_or_tear_a_pair_apart_are_refused(spark):
    rows = spark.createDataFrame([(1, 1, 0), (1, 2, 1), (1, 1, 1)], "user int, item int, fold int")
    with pytest.raises(DataError, match="no rating is in fold '7'; found folds 0, 1, …; correct"):
        evaluation.split(rows, "column", fold="fold", holdout_fold=7)
    with pytest.raises(DataError, match=r"user 1 and item 1 have ratings in folds '0' and '1'; expected one fold"):
        evaluation.split(rows, "column", fold="fold", holdout_fold=1)


def test_splits_without_meaning_are_refused(ratings):
    with pytest.raises(ConfigError, match="unknown key 'holdot'; did you mean 'holdout'"):
        evaluation.split(ratings, holdot=0.1)
    with pytest.raises(ConfigError, match="method: Input should be 'random'"):
        evaluation.split(ratings, "sample")
    with pytest.raises(ConfigError, match="method 'time' needs the name of a timestamp column"):
        evaluation.split(ratings, "time")
    with pytest.raises(ConfigError, match="'column' and a fold column go together"):
        evaluation.split(ratings, "random", fold="at")
    with pytest.raises(SchemaError, match="column 'part' already exists"):
        evaluation.split(ratings.withColumn("part", F.lit(1)))
    with pytest.raises(SchemaError, match="column 'when' is missing"):
        evaluation.split(ratings, "time", timestamp="when")
    with pytest.raises(SchemaError, match="fold column 'rating' must have integers or strings, found float"):
        evaluation.split(ratings, "column", fold="rating", holdout_fold=1)


def random_lists():
    """(recommended, relevant) of each user: lists of every length up to 6, some without a hit."""
    random = np.random.default_rng(4)
    for user in range(25):
        recommended = random.permutation(12)[: user % 7].tolist()
        yield user, recommended, random.permutation(12)[: 1 + user % 5].tolist()


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


def test_lists_have_at_least_one_place(spark):
    empty = spark.createDataFrame([], "user int, item int, recommendations array<struct<item int>>")
    for call in (
        lambda: evaluation.ranking_metrics(empty, empty, 0),
        lambda: evaluation.catalogue_metrics(empty, empty, 0),
        lambda: evaluation.popular_lists(empty, 0),
    ):
        with pytest.raises(ConfigError, match="k must be at least 1, found 0"):
            call()
