"""Where Spark's ALS draws a line, and where ours does: which ids there are, what is refused, what is read how often."""

import pytest
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.ml import recommendation as spark_ml
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import functions as F

import mfspark
import mfspark.blocks.prepare
from mfspark import ALS, ALSModel
from mfspark.blocks.prepare import blocked_ratings
from mfspark.errors import ConfigError, DataError
from mfspark.training.factor_tables import FactorTable
from tests.asserts import assert_same_bytes, factors_by_id
from tests.builders import random_ratings, ratings_table

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=21, n_users=20, n_items=12, n_ratings=120)


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


@pytest.fixture
def small(spark):
    """Users 0 and 1, items 3 to 6 in the order in which both like them best."""

    def table(factors):
        return FactorTable.of(spark.createDataFrame(factors, "id int, features array<float>"))

    return ALSModel(table([(0, [1.0]), (1, [2.0])]), table([(3, [4.0]), (4, [3.0]), (5, [2.0]), (6, [1.0])]), 1)


def items_of(best):
    """Recommended items of each user."""
    return {row[0]: [entry[0] for entry in row[1]] for row in best.collect()}


@pytest.mark.parametrize(
    ("schema", "pairs", "strategy"),
    [
        ("user int, item int", [(0, 3), (None, 3)], "nan"),
        ("user int, item bigint", [(0, 3), (0, None)], "mean"),
        ("user double, item int", [(0.0, 3), (float("nan"), 3)], "drop"),
        ("user string, item int", [("0", 3), (None, 3)], "drop"),
    ],
)
def test_null_and_nan_are_no_unknown_ids_but_errors(spark, small, schema, pairs, strategy):
    small._global_mean = 2.5
    small.setColdStartStrategy(strategy)
    with pytest.raises(PySparkException, match=r"column '(user|item)' has ids that are null or NaN; drop these rows"):
        small.transform(spark.createDataFrame(pairs, schema)).collect()
    good = spark.createDataFrame(pairs[:1], schema)
    assert [row.prediction for row in small.transform(good).collect()] == [4.0]


def test_a_string_named_nan_is_an_id(spark, ratings):
    named = ratings.withColumn("user", F.when(F.col("user") == 0, "NaN").otherwise(F.concat(F.lit("u"), "user")))
    model = ALS(rank=2, maxIter=1).fit(named)
    pairs = spark.createDataFrame([("NaN", 0)], "user string, item int")
    assert model.transform(pairs).where(F.isnan("prediction")).count() == 0


def test_numbers_that_sparks_als_refuses_are_ids(spark):
    rows = [(2**40, 0.25, 3.0), (2**40, 1.0, 1.0), (-(2**40), 0.25, 2.0)]
    data = spark.createDataFrame(rows, "user bigint, item double, rating float")
    model = ALS(rank=1, maxIter=1).fit(data)
    assert sorted(factors_by_id(model.userFactors)) == [-(2**40), 2**40]
    assert sorted(factors_by_id(model.itemFactors)) == [0.25, 1.0]
    assert model.transform(data).where(F.isnan("prediction")).count() == 0


def test_of_a_model_with_int_ids_wide_ones_and_fractions_are_unknown(spark, small):
    pairs = spark.createDataFrame([(0, 3.0), (2**32, 3.0), (0, 3.5)], "user bigint, item double")
    found = {(row.user, row.item): row.prediction for row in small.transform(pairs).collect()}
    assert found.pop((0, 3.0)) == 4.0
    assert [prediction != prediction for prediction in found.values()] == [True, True]


def test_columns_of_the_same_name_pass_through(spark, small):
    pairs = spark.createDataFrame([(0, 3, 7, 8)], "user int, item int, a int, b int").toDF("user", "item", "x", "x")
    scored = small.transform(pairs)
    assert scored.columns == ["user", "item", "x", "x", "prediction"]
    assert tuple(scored.first()) == (0, 3, 7, 8, 4.0)


def test_seen_pairs_that_the_model_cannot_know_are_ignored(spark, small):
    rows = [(0, 3.0), (2**32, 4.0), (0, 4.5), (0, float(2**40)), (1, None)]
    seen = spark.createDataFrame(rows, "user bigint, item double")
    assert items_of(small.recommendForAllUsers(4, seen=seen)) == {0: [4, 5, 6], 1: [3, 4, 5, 6]}
    named = spark.createDataFrame([("0", "3"), ("zero", "4"), ("0", "four")], "user string, item string")
    assert items_of(small.recommendForAllUsers(4, exclude=named)) == {0: [4, 5, 6], 1: [3, 4, 5, 6]}


def test_ratings_of_items_that_the_model_cannot_know_are_ignored(ratings):
    model = ALS(rank=2, maxIter=2).fit(ratings)
    new = ratings.where("user < 5").selectExpr("user", "cast(item AS double) AS item", "rating")
    others = new.selectExpr("user", "item + 0.5", "rating").union(new.selectExpr("user", "item + 1e10", "rating"))
    expected, found = (model.foldInUsers(table).userFactors for table in (new, new.union(others)))
    assert_same_bytes(factors_by_id(found), factors_by_id(expected))
    assert model.explain(new.union(others), 3, 1).collect() == model.explain(new, 3, 1).collect()
    with pytest.raises(DataError, match="1 null item ids"):
        model.foldInUsers(new.union(new.selectExpr("0", "null", "1.0").limit(1)))


def test_strangers_too_get_nothing_seen_or_excluded(spark, small):
    users = spark.createDataFrame([(0,), (77,), (78,), (None,)], "user int")
    popular = spark.createDataFrame([(i,) for i in (5, 5, 5, 6, 6, 4)], "item bigint")
    seen = spark.createDataFrame([(77, 5), (0, 3)], "user int, item int")
    exclude = spark.createDataFrame([(78, 6), (77, 9)], "user int, item int")
    best = items_of(small.recommendForUserSubset(users, 2, seen=seen, exclude=exclude, popular=popular))
    assert best == {0: [4, 5], 77: [6, 4], 78: [5, 4]}
    known = small.recommendForUserSubset(users.where("user = 0"), 2, popular=popular)
    assert items_of(known) == {0: [3, 4]}


def test_what_cannot_be_explained_is_said(ratings):
    model = ALS(rank=2, maxIter=1, implicitPrefs=True).fit(ratings)
    for item, shown in ((99, "99"), ("three", "'three'"), (2**40, "1099511627776")):
        with pytest.raises(DataError, match=f"no factors for item {shown}"):
            model.explain(ratings, 3, item)
    for user in (99, "three", None):
        with pytest.raises(DataError, match="this user rated no item that the model knows"):
            model.explain(ratings, user, 3)


def test_no_mean_is_made_up(ratings, tmp_path):
    spark_ml.ALS(rank=2, maxIter=1, seed=1).fit(ratings).save(f"{tmp_path}/theirs")
    feedback = ALS(rank=2, maxIter=1, implicitPrefs=True).fit(ratings)
    feedback.save(f"{tmp_path}/ours")
    for model in (feedback, ALSModel.load(f"{tmp_path}/ours"), ALSModel.load(f"{tmp_path}/theirs")):
        assert model.globalMean is None
        with pytest.raises(ConfigError, match="'mean' needs a mean rating, and this model has none"):
            model.setColdStartStrategy("mean").transform(ratings)


@pytest.mark.parametrize("name", ["intermediateStorageLevel", "finalStorageLevel"])
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("MEMORY_AND_DISK_SER", StorageLevel.MEMORY_AND_DISK),
        ("MEMORY_AND_DISK_SER_2", StorageLevel.MEMORY_AND_DISK_2),
        ("MEMORY_ONLY_SER", StorageLevel.MEMORY_ONLY),
        ("MEMORY_ONLY_SER_2", StorageLevel.MEMORY_ONLY_2),
        ("DISK_ONLY_3", StorageLevel.DISK_ONLY_3),
        ("OFF_HEAP", StorageLevel.OFF_HEAP),
    ],
)
def test_every_storage_level_that_sparks_als_knows_is_known(name, level, expected):
    assert ALS(**{name: level}).storage_level(name) == expected


def test_unknown_storage_levels_are_refused():
    with pytest.raises(ConfigError, match="finalStorageLevel must name a StorageLevel other than NONE, found 'foo'"):
        ALS(finalStorageLevel="foo").require_valid()


def test_blocks_are_kept_at_the_intermediate_storage_level(spark, ratings):
    als = ALS(rank=2, maxIter=1, intermediateStorageLevel="DISK_ONLY", engine="rdd")
    models = als.fitMultiple(ratings, [{}, {als.regParam: 0.5}])
    next(models)  # the second map still needs the blocks
    levels = [rdd.getStorageLevel() for rdd in spark.sparkContext._jsc.getPersistentRDDs().values()]
    assert levels
    assert all(level.useDisk() and not level.useMemory() for level in levels)
    next(models)


def test_iterations_and_factor_tables_shuffle_nothing(spark, ratings):
    def n_shuffles(action):
        # Each look takes a number too.
        before = spark.sparkContext._jsc.sc().newShuffleId()
        result = action()
        return spark.sparkContext._jsc.sc().newShuffleId() - before - 1, result

    few, _ = n_shuffles(lambda: ALS(rank=2, maxIter=1, checkpointInterval=1, engine="rdd").fit(ratings))
    many, model = n_shuffles(lambda: ALS(rank=2, maxIter=7, checkpointInterval=1, engine="rdd").fit(ratings))
    assert many == few > 0
    assert n_shuffles(lambda: (model.userFactors.collect(), model.itemFactors.collect()))[0] == 0


def test_the_initial_model_is_set_as_other_parameters_are(small):
    als = ALS().setParams(initialModel=small, rank=1)
    assert als.getRank() == 1
    assert als._initial_model is small
    assert als.setParams(rank=2)._initial_model is small
    with pytest.raises(TypeError, match="ALS has no parameter 'ranc'"):
        als.setParams(ranc=3)


# Spark's own tuning leaves its pools of threads to the collector.
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed running:ResourceWarning"
)
def test_tuning_reads_the_ratings_once_a_fold(ratings, monkeypatch):
    n_blocked = []

    def count(ratings, blocks):
        n_blocked.append(blocks)
        return blocked_ratings(ratings, blocks)

    for module in (mfspark.blocks.prepare, mfspark.ml.estimators):
        monkeypatch.setattr(module, "blocked_ratings", count)
    als = ALS(rank=2, maxIter=1, numUserBlocks=2, numItemBlocks=2, coldStartStrategy="drop")
    grid = ParamGridBuilder().addGrid(als.regParam, [0.1, 1.0, 10.0]).build()
    settings = {"estimator": als, "estimatorParamMaps": grid, "parallelism": 2, "seed": 1}
    judge = RegressionEvaluator(labelCol="rating")
    CrossValidator(evaluator=judge, numFolds=2, **settings).fit(ratings)
    assert len(n_blocked) == 2 + 1  # two folds, and the best of them on all ratings
    n_blocked.clear()
    TrainValidationSplit(evaluator=judge, **settings).fit(ratings)
    assert len(n_blocked) == 1 + 1
