"""Lists of the best, for everybody and for some, and of the similar."""

import numpy as np
import pyarrow as pa
import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from mfspark import ALS, ALSModel
from mfspark.engine.arrow import local_table
from mfspark.engine.connect import ConnectEngine
from mfspark.engine.rdd import RddEngine
from mfspark.errors import ConfigError, SchemaError
from mfspark.kernels.topn import top_n
from mfspark.serving import recommend as serving
from mfspark.serving.recommend import recommend
from mfspark.training.factor_tables import FactorTable
from tests import naive
from tests.asserts import factors_by_id
from tests.builders import model_of, random_ratings, ratings_table, small_model

pytestmark = pytest.mark.spark

# Spark's own case: u0(6,4) u1(3,4) u2(3,6); i3(5,6) i4(6,2) i5(3,6) i6(4,1).
USERS = {0: [6, 4], 1: [3, 4], 2: [3, 6]}
ITEMS = {3: [5, 6], 4: [6, 2], 5: [3, 6], 6: [4, 1]}
BEST = {
    0: [(3, 54), (4, 44), (5, 42), (6, 28)],
    1: [(3, 39), (5, 33), (4, 26), (6, 16)],
    2: [(3, 51), (5, 45), (4, 30), (6, 18)],
}


BEST_USERS = {
    3: [(0, 54.0), (2, 51.0), (1, 39.0)],
    4: [(0, 44.0), (2, 30.0), (1, 26.0)],
    5: [(2, 45.0), (0, 42.0), (1, 33.0)],
    6: [(0, 28.0), (2, 18.0), (1, 16.0)],
}


@pytest.fixture
def fixed(spark):
    return model_of(spark, USERS, ITEMS)


@pytest.fixture
def small(spark):
    return small_model(spark)


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


@pytest.fixture
def batches(monkeypatch):
    """The batches of each result that the driver's threads make."""
    made = []

    def record(spark, batches, schema):
        made.append(batches)
        return local_table(spark, batches, schema)

    monkeypatch.setattr("mfspark.engine.local.local_table", record)
    return made


@pytest.mark.local
@pytest.mark.parametrize(
    ("limits", "n_on_driver"),
    [
        ({}, 1),
        # The executors group the pairs. On Spark Connect they also serve the users.
        pytest.param({"engine.choice.MAX_LOCAL_ROWS": 2999}, 1, marks=pytest.mark.classic),
        ({"engine.choice.MAX_LOCAL_ROWS": 2999, "serving.recommend.has_all_cores": lambda _: False}, 0),
        ({"engine.choice.MAX_LOCAL_ROWS": 2999, "serving.recommend.is_large": lambda _: True}, 0),
    ],
)
def test_many_users_over_several_batches_agree_with_a_sort(spark, monkeypatch, batches, limits, n_on_driver):
    for name, value in limits.items():
        monkeypatch.setattr(f"mfspark.{name}", value)
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
    assert len(batches) == n_on_driver
    names = sorted(items)
    seen = [{names.index(item) for user, item in pairs if user == row} for row in range(700)]
    scores = np.array(list(users.values())) @ np.array([items[name] for name in names]).T
    expected = naive.top_n(scores, 5, seen)
    assert best == {user: [(names[item], scores[user, item]) for item in row] for user, row in enumerate(expected)}


@pytest.mark.local
def test_small_tables_are_served_where_the_executors_cannot_be_used(spark, monkeypatch):
    def refuse(*_):
        raise ConfigError("this server is too old")

    monkeypatch.setattr("mfspark.serving.recommend.executors_engine", refuse)
    users, items = factor_table(spark, USERS), factor_table(spark, ITEMS)
    assert as_dict(recommend(users, items, 0.0, 4)) == BEST
    seen = spark.createDataFrame([(0, 3)], "id long, item_id long")
    assert as_dict(recommend(users, items, 0.0, 4, seen)) == {**BEST, 0: BEST[0][1:]}


# Names of 4 and of 400 characters: the best items' are much longer than the mean.
def long_names(random, n_items):
    return [f"{item:02d}" + ("long" * 100 if item % 10 == 0 else "..") for item in random.permutation(n_items)]


@pytest.mark.local
@pytest.mark.parametrize("drop_seen", [False, True])
@pytest.mark.parametrize(("bound", "n_batches"), [(1 << 30, 1), (20_000, 2), (4_000, 20), (1, 300)])
def test_batches_are_cut_by_their_bytes(spark, monkeypatch, batches, bound, n_batches, drop_seen):
    random = np.random.default_rng(2)
    users = dict(enumerate(random.integers(1, 4, (300, 2)).tolist()))
    items = {name: [90, 90] if "long" in name else random.integers(1, 9, 2).tolist() for name in long_names(random, 40)}
    pairs = [(user, sorted(items)[user % 40]) for user in range(0, 300, 3)]
    seen = spark.createDataFrame(pairs, "id long, item_id string") if drop_seen else None
    monkeypatch.setattr("mfspark.serving.recommend._BYTES_IN_BATCH", bound)
    best = as_dict(recommend(factor_table(spark, users), factor_table(spark, items), 0.0, 6, seen))
    names = sorted(items)
    skipped = {user: {names.index(name)} for user, name in pairs} if drop_seen else {}
    scores = np.array(list(users.values())) @ np.array([items[name] for name in names]).T
    expected = naive.top_n(scores, 6, [skipped.get(user, set()) for user in range(300)])
    assert best == {user: [(names[item], scores[user, item]) for item in row] for user, row in enumerate(expected)}
    (made,) = batches
    assert len(made) >= n_batches
    assert all(batch.nbytes <= bound or batch.num_rows == 1 for batch in made)


@pytest.mark.local
@pytest.mark.parametrize(("bound", "n_users"), [(3 * 196 - 1, 2), (3 * 196, 3), (195, 1)])
def test_the_kernel_holds_the_lists_of_one_batch(spark, monkeypatch, bound, n_users):
    asked = []

    def record(users, *arguments):
        asked.append(len(users))
        return top_n(users, *arguments)

    monkeypatch.setattr("mfspark.serving.recommend.top_n", record)
    monkeypatch.setattr("mfspark.serving.recommend._BYTES_IN_BATCH", bound)
    monkeypatch.setattr("mfspark.serving.recommend.compile_top_n", lambda: None)
    users, items = ({row: [row, 1] for row in range(n_rows)} for n_rows in (300, 40))
    # 16 entries of an id, 8 bytes, and a score, 4 bytes; and an offset, 4 bytes.
    recommend(factor_table(spark, users), factor_table(spark, items), 0.0, 16)
    assert (sum(asked), max(asked)) == (300, n_users)


@pytest.mark.local
def test_lists_with_long_ids_are_made_on_the_executors(spark, monkeypatch, batches):
    users, items = factor_table(spark, USERS), {"long" * 100 + str(item): vector for item, vector in ITEMS.items()}
    monkeypatch.setattr("mfspark.serving.recommend._MAX_LOCAL_BYTES", 3 * 2 * 400)
    best = as_dict(recommend(users, factor_table(spark, items), 0.0, 2))
    assert best == {user: [("long" * 100 + str(item), score) for item, score in row[:2]] for user, row in BEST.items()}
    assert batches == []
    assert as_dict(recommend(users, factor_table(spark, ITEMS), 0.0, 2)) == {
        user: row[:2] for user, row in BEST.items()
    }
    assert len(batches) == 1


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


def lists_of(table):
    return {row[0]: [tuple(entry) for entry in row[1]] for row in table.collect()}


@pytest.mark.parametrize("k", [2, 4, 6])
def test_lists_have_the_best_of_the_other_side(spark, fixed, k):
    assert lists_of(fixed.recommendForAllUsers(k)) == {user: best[:k] for user, best in BEST.items()}
    assert lists_of(fixed.recommendForAllItems(k)) == {item: best[:k] for item, best in BEST_USERS.items()}
    everyone = fixed.userFactors.withColumnRenamed("id", "user")
    assert lists_of(fixed.recommendForUserSubset(everyone, k)) == {user: best[:k] for user, best in BEST.items()}
    users = spark.createDataFrame([(0,), (2,), (2,), (77,)], "user int")
    subset = fixed.recommendForUserSubset(users, k)
    assert lists_of(subset) == {user: BEST[user][:k] for user in (0, 2)}
    assert subset.schema.simpleString() == ("struct<user:int,recommendations:array<struct<item:int,rating:float>>>")
    items = spark.createDataFrame([(6,), (3,), (6,)], "item int")
    assert lists_of(fixed.recommendForItemSubset(items, k)) == {item: BEST_USERS[item][:k] for item in (3, 6)}


def test_lists_keep_to_candidates_and_leave_out_what_is_excluded_or_seen(spark, fixed):
    candidates = spark.createDataFrame([(4,), (6,), (6,), (99,)], "item int")
    excluded = spark.createDataFrame([(3,), (99,)], "item int")
    seen = spark.createDataFrame([(0, 5), (2, 4)], "user int, item int")

    def expected(keep):
        return {user: [entry for entry in best if keep(user, entry[0])] for user, best in BEST.items()}

    assert lists_of(fixed.recommendForAllUsers(4, candidates=candidates)) == expected(lambda _, item: item in (4, 6))
    assert lists_of(fixed.recommendForAllUsers(4, exclude=excluded)) == expected(lambda _, item: item != 3)
    assert lists_of(fixed.recommendForAllUsers(4, exclude=seen)) == lists_of(fixed.recommendForAllUsers(4, seen=seen))
    one = spark.createDataFrame([(1, 3)], "user int, item int")
    assert lists_of(fixed.recommendForAllUsers(4, seen=seen, exclude=one)) == expected(
        lambda user, item: (user, item) not in [(0, 5), (2, 4), (1, 3)]
    )
    best = fixed.recommendForAllUsers(4, seen=seen, exclude=excluded)
    assert lists_of(best) == expected(lambda user, item: item != 3 and (user, item) not in [(0, 5), (2, 4)])
    nothing = candidates.where("item = 99")
    assert lists_of(fixed.recommendForAllUsers(4, candidates=nothing)) == {0: [], 1: [], 2: []}
    with pytest.raises(SchemaError, match="column 'item' is missing"):
        fixed.recommendForAllUsers(4, candidates=spark.range(3))
    with pytest.raises(SchemaError, match="candidates apply to every user, but they have a column 'user'"):
        fixed.recommendForAllUsers(4, candidates=candidates.selectExpr("item", "1 AS User"))


def test_users_without_factors_get_what_is_popular(spark, fixed):
    users = spark.createDataFrame([(2,), (77,), (77,), (78,)], "user int")
    # 99 is the most popular of all, and unknown; 4 and 6 tie.
    rated = spark.createDataFrame([(i,) for i in (99, 99, 99, 99, 5, 5, 5, 6, 6, 4, 4, 3)], "item int")
    best = lists_of(fixed.recommendForUserSubset(users, 3, popular=rated))
    assert best == {2: BEST[2][:3], 77: [(5, None), (4, None), (6, None)], 78: [(5, None), (4, None), (6, None)]}
    excluded = spark.createDataFrame([(5,)], "item int")
    best = lists_of(fixed.recommendForUserSubset(users, 9, popular=rated, exclude=excluded))
    assert best[77] == [(4, None), (6, None), (3, None)]
    assert lists_of(fixed.recommendForUserSubset(users, 3)).keys() == {2}


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_similar_rows_are_those_with_the_nearest_factors(spark, fixed, metric):
    factors = {i: np.array(row) for i, row in factors_by_id(fixed.itemFactors).items()}

    def similarity(i, j):
        lengths = np.linalg.norm(factors[i]) * np.linalg.norm(factors[j]) if metric == "cosine" else 1
        return factors[i] @ factors[j] / lengths

    found = lists_of(fixed.similarItems(2, metric))
    for i, nearest in found.items():
        best = sorted((j for j in factors if j != i), key=lambda j, i=i: -similarity(i, j))[:2]
        assert [j for j, _ in nearest] == best
        np.testing.assert_allclose([s for _, s in nearest], [similarity(i, j) for j in best], rtol=1e-5)
    assert sorted(found) == [3, 4, 5, 6]
    some = spark.createDataFrame([(4,)], "item int")
    assert lists_of(fixed.similarItems(2, metric, subset=some)) == {4: found[4]}
    assert sorted(lists_of(fixed.similarUsers(1))) == [0, 1, 2]
    with pytest.raises(ConfigError, match="metric must be 'cosine' or 'dot', found 'l2'"):
        fixed.similarItems(2, "l2")


def test_similarity_leaves_biases_out(spark):
    ratings = spark.createDataFrame(ratings_table(*random_ratings(seed=9, n_users=20, n_items=12, n_ratings=120)))
    model = ALS(rank=2, maxIter=2, biases=True).fit(ratings)
    for _, nearest in lists_of(model.similarItems(3)).items():
        assert all(-1.00001 <= cosine <= 1.00001 for _, cosine in nearest)


def items_of(best):
    """Recommended items of each user."""
    return {row[0]: [entry[0] for entry in row[1]] for row in best.collect()}


def test_seen_pairs_that_the_model_cannot_know_are_ignored(spark, small):
    rows = [(0, 3.0), (2**32, 4.0), (0, 4.5), (0, float(2**40)), (1, None)]
    seen = spark.createDataFrame(rows, "user bigint, item double")
    assert items_of(small.recommendForAllUsers(4, seen=seen)) == {0: [4, 5, 6], 1: [3, 4, 5, 6]}
    named = spark.createDataFrame([("0", "3"), ("zero", "4"), ("0", "four")], "user string, item string")
    assert items_of(small.recommendForAllUsers(4, exclude=named)) == {0: [4, 5, 6], 1: [3, 4, 5, 6]}


def test_strangers_too_get_nothing_seen_or_excluded(spark, small):
    users = spark.createDataFrame([(0,), (77,), (78,), (None,)], "user int")
    popular = spark.createDataFrame([(i,) for i in (5, 5, 5, 6, 6, 4)], "item bigint")
    seen = spark.createDataFrame([(77, 5), (0, 3)], "user int, item int")
    exclude = spark.createDataFrame([(78, 6), (77, 9)], "user int, item int")
    best = items_of(small.recommendForUserSubset(users, 2, seen=seen, exclude=exclude, popular=popular))
    assert best == {0: [4, 5], 77: [6, 4], 78: [5, 4]}
    known = small.recommendForUserSubset(users.where("user = 0"), 2, popular=popular)
    assert items_of(known) == {0: [3, 4]}


@pytest.mark.parametrize("is_local", [True, False])
def test_both_engines_recommend_the_same(spark, on_executors, is_local):
    users, items, values = random_ratings(seed=12, n_users=30, n_items=15, n_ratings=200)
    ratings = spark.createDataFrame(ratings_table(users, items, values))
    engine = "local" if is_local else on_executors
    model = ALS(rank=3, maxIter=2, engine=engine, numUserBlocks=2, numItemBlocks=2).fit(ratings)
    lists = {row["user"]: [tuple(entry) for entry in row["recommendations"]] for row in
             model.recommendForAllUsers(4, seen=ratings).collect()}  # fmt: skip
    X, Y = (np.array([row["features"] for row in table.orderBy("id").collect()]) for table in
            (model.userFactors, model.itemFactors))  # fmt: skip
    for user in range(30):
        seen = set(items[user == users].tolist())
        best = sorted((-float(X[user] @ Y[item]), item) for item in range(15) if item not in seen)[:4]
        assert [item for item, _ in lists[user]] == [item for _, item in best]
        assert [score for _, score in lists[user]] == pytest.approx([-score for score, _ in best], rel=1e-4, abs=1e-5)


@pytest.fixture
def in_tiles(on_executors, monkeypatch):
    """No table is small, and few bytes of factors fit one broadcast; counts the tiles."""
    engine, made = RddEngine if on_executors == "rdd" else ConnectEngine, []
    monkeypatch.setattr("mfspark.engine.choice.MAX_LOCAL_ROWS", -1)
    original = serving._recommend_among
    monkeypatch.setattr(serving, "_recommend_among", lambda *call: made.append(call) or original(*call))

    def limit(n_bytes):
        monkeypatch.setattr(engine, "max_sent_bytes", n_bytes)
        return made

    return limit


@pytest.fixture
def spread_model(spark):
    """A model with ids of text, ties and biases; its tables have four partitions."""
    random = np.random.default_rng(3)
    tables = []
    for name, n_rows in (("user", 13), ("item", 21)):
        features = random.integers(-2, 3, (n_rows, 3)).astype(np.float32)
        rows = pa.table({"id": [f"{name} {row:02}" for row in range(n_rows)], "features": features.tolist()})
        biases = pa.array(random.integers(-1, 2, n_rows), pa.float32())
        table = spark.createDataFrame(rows.append_column("bias", biases)).repartition(4)
        tables.append(table.withColumn("features", F.col("features").cast("array<float>")))
    return ALSModel(*map(FactorTable.of, tables), 3, 2.5)


def all_lists_of(model, ratings):
    made = (model.recommendForAllUsers(4), model.recommendForAllUsers(30, seen=ratings))
    return [lists_of(table) for table in (*made, model.recommendForAllItems(3), model.similarItems(5))]


@pytest.mark.parametrize("n_bytes", [70, 300])
def test_items_in_tiles_give_the_same_lists(spark, spread_model, in_tiles, n_bytes):
    pairs = [(f"user {n % 13:02}", f"item {n % 21:02}", 1.0) for n in range(60)]
    pairs += [("user 05", f"item {n:02}", 1.0) for n in range(21)]
    ratings = spark.createDataFrame(pairs, "user string, item string, rating float")
    expected = all_lists_of(spread_model, ratings)
    assert expected[1]["user 05"] == []
    in_tiles(1 << 20)
    assert all_lists_of(spread_model, ratings) == expected
    made = in_tiles(n_bytes)
    made.clear()
    assert all_lists_of(spread_model, ratings) == expected
    assert len(made) > 4  # one for each table without tiles


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], [([], 0)]),
        ([0, 0], [([], 0)]),
        ([0, 90], [([1], 90)]),
        ([90, 0], [([0], 90)]),
        ([30, 0, 30, 90, 10, 40], [([0, 2], 60), ([3], 90), ([4, 5], 50)]),
    ],
)
def test_parts_are_gathered_up_to_the_limit_without_empty_ones(sizes, expected):
    assert list(serving._ranges_of_parts(sizes, 60)) == expected
