"""Splits that do not leak: they depend on the ratings alone, and no pair lies in two parts."""

import numpy as np
import pytest
from pyspark.sql import functions as F

from mfspark import evaluation
from mfspark.errors import DataError, SchemaError

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


@pytest.fixture(scope="module")
def parts(ratings):
    """The parts that each method makes."""
    return {method: parts_of(ratings, method, **settings) for method, settings in METHODS}


@pytest.mark.parametrize(("method", "settings"), METHODS, ids=[name for name, _ in METHODS])
def test_parts_depend_on_the_ratings_alone(spark, parts, method, settings):
    found = parts[method]
    assert set(found.values()) == {"train", "validation", "holdout"}
    scattered = spark.createDataFrame(history()[::-1], SCHEMA).repartition(7, "rating")
    assert parts_of(scattered, method, **settings) == found


@pytest.mark.parametrize(("method", "settings"), METHODS[:3], ids=[name for name, _ in METHODS[:3]])
def test_the_seed_draws_the_lots(ratings, parts, method, settings):
    assert parts[method] != parts_of(ratings, method, **{**settings, "seed": SEED + 1})


def count_by_user(parts, part):
    return [sum(user == row and found == part for (user, _), found in parts.items()) for row in range(N_USERS)]


def test_random_per_user_takes_the_shares_of_each_user_and_leaves_one_to_train(ratings):
    found = parts_of(ratings, "random_per_user", holdout=0.25, validation=0.25, seed=SEED)
    n_pairs = np.array([1 + row // 2 for row in range(N_USERS)])
    half_up = np.floor([n_pairs * 0.25 + 0.5, n_pairs * 0.5 + 0.5]).astype(int)
    n_holdout, n_judged = np.minimum(half_up, n_pairs - 1)
    assert count_by_user(found, "holdout") == n_holdout.tolist()
    assert count_by_user(found, "validation") == (n_judged - n_holdout).tolist()


def test_leave_last_takes_the_latest_of_each_user(parts):
    found, times = parts["leave_last"], pair_times()
    assert count_by_user(found, "holdout") == [min(2, row // 2) for row in range(N_USERS)]
    assert count_by_user(found, "validation") == [min(1, max(0, row // 2 - 2)) for row in range(N_USERS)]
    for user in range(N_USERS):
        at = {part: [times[pair] for pair in found if pair[0] == user and found[pair] == part]
              for part in ("train", "validation", "holdout")}  # fmt: skip
        assert max(at["train"]) <= min(at["validation"], default=99)
        assert max([*at["train"], *at["validation"]]) <= min(at["holdout"], default=99)


def test_time_cuts_between_two_moments(parts):
    found, times = parts["time"], pair_times()
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


@pytest.mark.parametrize("type_", ["timestamp", "date", "decimal(20,3)", "double"])
def test_time_has_any_type_with_an_order(spark, type_):
    at = F.col("id").cast("long")
    at = (at * 86_400).cast("timestamp_ltz") if type_ in ("timestamp", "date") else at
    ratings = spark.range(100).select(
        (F.col("id") % 9).alias("user"), F.col("id").alias("item"), at.cast(type_).alias("at")
    )
    found = parts_of(ratings, "time", **NAMES, holdout=0.1, validation=0.2)
    assert {item for (_, item), part in found.items() if part == "holdout"} == set(range(90, 100))
    assert {item for (_, item), part in found.items() if part == "validation"} == set(range(70, 90))


@pytest.mark.parametrize("method", ["time", "leave_last"])
def test_time_as_text_is_refused(spark, method):
    ratings = spark.range(20).selectExpr("id AS user", "id AS item", "concat(id % 12 + 1, '/1/2024') AS at")
    with pytest.raises(SchemaError, match="'at' is text, which sorts by letters, not by time; convert it first"):
        evaluation.split(ratings, method, **NAMES)


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
