"""Top-N, predictions and metrics as DataFrame operations."""

import numpy as np
import pyarrow as pa
import pytest
from chispa import assert_df_equality

from mfspark.serving.recommend import recommend
from mfspark.training.factor_tables import FactorTable
from tests import naive

pytestmark = pytest.mark.spark

# Spark's own case: u0(6,4) u1(3,4) u2(3,6); i3(5,6) i4(6,2) i5(3,6) i6(4,1).
USERS = {0: [6, 4], 1: [3, 4], 2: [3, 6]}
ITEMS = {3: [5, 6], 4: [6, 2], 5: [3, 6], 6: [4, 1]}
BEST = {
    0: [(3, 54), (4, 44), (5, 42), (6, 28)],
    1: [(3, 39), (5, 33), (4, 26), (6, 16)],
    2: [(3, 51), (5, 45), (4, 30), (6, 18)],
}


def factor_table(spark, factors: dict):
    ids, features = list(factors), pa.array(list(factors.values()), pa.list_(pa.float32()))
    return FactorTable.of(spark.createDataFrame(pa.table({"id": ids, "features": features})))


def as_dict(recommendations):
    return {
        row["id"]: [(entry["id"], entry["rating"]) for entry in row["recommendations"]]
        for row in recommendations.collect()
    }


@pytest.mark.parametrize("n", [2, 4, 6])
def test_best_items_of_each_user_for_n_below_at_and_above_the_number_of_items(spark, n):
    best = recommend(factor_table(spark, USERS), factor_table(spark, ITEMS), 0.0, n)
    assert as_dict(best) == {user: entries[:n] for user, entries in BEST.items()}


def test_seen_items_are_left_out_and_unknown_ids_ignored(spark):
    pairs = [(0, 3), (0, 3), (1, 5), (1, 6), (9, 3), (2, 77), *[(2, item) for item in ITEMS]]
    seen = spark.createDataFrame(pairs, "id long, item_id long")
    best = as_dict(recommend(factor_table(spark, USERS), factor_table(spark, ITEMS), 0.0, 3, seen))
    assert best == {0: BEST[0][1:], 1: [(3, 39), (4, 26)], 2: []}


def test_many_users_over_several_batches_agree_with_a_sort(spark):
    random = np.random.default_rng(8)
    users = dict(enumerate(random.integers(-3, 4, (700, 3)).tolist()))
    items = {f"item {number:02d}": vector for number, vector in enumerate(random.integers(-3, 4, (40, 3)).tolist())}
    pairs = [
        (int(user), f"item {item:02d}")
        for user, item in zip(random.integers(0, 700, 3000), random.integers(0, 40, 3000), strict=True)
    ]
    seen_pairs = spark.createDataFrame(pairs, "id long, item_id string")
    scattered = FactorTable.of(factor_table(spark, users).table.repartition(5))
    best = as_dict(recommend(scattered, factor_table(spark, items), 0.0, 5, seen_pairs))
    names = sorted(items)
    seen = [{names.index(item) for user, item in pairs if user == row} for row in range(700)]
    scores = np.array(list(users.values())) @ np.array([items[name] for name in names]).T
    expected = naive.top_n(scores, 5, seen)
    assert best == {user: [(names[item], scores[user, item]) for item in row] for user, row in enumerate(expected)}


@pytest.mark.parametrize("drop_seen", [False, True])
def test_biases_and_the_mean_are_part_of_the_scores(spark, drop_seen):
    def biased(factors, biases):
        ids, features = list(factors), pa.array(list(factors.values()), pa.list_(pa.float32()))
        columns = {"id": ids, "features": features, "bias": np.array(biases, np.float32)}
        return FactorTable.of(spark.createDataFrame(pa.table(columns)))

    seen = spark.createDataFrame([(0, 3)], "id long, item_id long") if drop_seen else None
    best = as_dict(recommend(biased(USERS, [1, 2, 3]), biased(ITEMS, [0, 20, 0, 0.5]), 0.25, 2, seen))
    scores = {0: [(4, 65.25), (3, 55.25)], 1: [(4, 48.25), (3, 41.25)], 2: [(3, 54.25), (4, 53.25)]}
    if drop_seen:
        scores[0] = [(4, 65.25), (5, 43.25)]
    assert best == scores


def test_recommend_keeps_the_id_types(spark):
    users = factor_table(spark, USERS).table.selectExpr("cast(id AS smallint) AS id", "features")
    items = factor_table(spark, ITEMS).table.selectExpr("cast(id AS string) AS id", "features")
    best = recommend(FactorTable.of(users), FactorTable.of(items), 0.0, 1)
    expected = spark.createDataFrame(
        [(user, [(str(entries[0][0]), float(entries[0][1]))]) for user, entries in BEST.items()],
        "id smallint, recommendations array<struct<id: string, rating: float>>",
    )
    assert_df_equality(best, expected, ignore_nullable=True, ignore_row_order=True)


def test_seen_ids_of_another_type_are_the_ids_of_the_factors(spark):
    seen = spark.createDataFrame([("0", 3), ("2", 5)], "id string, item_id int")
    best = as_dict(recommend(factor_table(spark, USERS), factor_table(spark, ITEMS), 0.0, 1, seen))
    assert best == {0: [(4, 44)], 1: [(3, 39)], 2: [(3, 51)]}


def test_seen_pairs_with_nulls_are_ignored(spark):
    seen = spark.createDataFrame([(0, None), (None, 3), (0, 3)], "id long, item_id long")
    best = as_dict(recommend(factor_table(spark, USERS), factor_table(spark, ITEMS), 0.0, 1, seen))
    assert best == {0: [(4, 44)], 1: [(3, 39)], 2: [(3, 51)]}


def test_nothing_seen_leaves_nothing_out(spark):
    seen = spark.createDataFrame([], "id long, item_id long")
    best = as_dict(recommend(factor_table(spark, USERS), factor_table(spark, ITEMS), 0.0, 2, seen))
    assert best == {user: entries[:2] for user, entries in BEST.items()}
