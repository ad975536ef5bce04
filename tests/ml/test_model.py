"""What a team has that comes from `pyspark.ml.recommendation`: the import is all that changes."""

import datetime
import doctest
import itertools
from decimal import Decimal

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml import recommendation as spark_ml
from pyspark.ml.evaluation import RankingEvaluator, RegressionEvaluator
from pyspark.ml.feature import StringIndexer
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import functions as F

import mfspark
import mfspark.blocks.prepare
from mfspark import ALS, SGD, ALSModel
from mfspark.blocks.prepare import blocked_ratings
from mfspark.errors import ConfigError, DataError, NumericalError, SchemaError
from mfspark.training.factor_tables import FactorTable
from tests.asserts import assert_factors_close, assert_same_bytes, factors_by_id, hashable
from tests.builders import low_rank_ratings, random_ratings, ratings_table

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=9, n_users=20, n_items=12, n_ratings=120)

# These print what the seed's first factors lead to; ours are others.
DEPEND_ON_THE_SEED = ("predictions[", "user_recs", "item_recs", "user_subset_recs", "item_subset_recs")


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


@pytest.fixture
def fixed(spark):
    """Factors of Spark's own tests of its lists."""

    def table(factors):
        return FactorTable.of(spark.createDataFrame(factors, "id int, features array<float>"))

    users = table([(0, [6.0, 4.0]), (1, [3.0, 4.0]), (2, [3.0, 6.0])])
    items = table([(3, [5.0, 6.0]), (4, [6.0, 2.0]), (5, [3.0, 6.0]), (6, [4.0, 1.0])])
    return ALSModel(users, items, 2)


BEST_ITEMS = {
    0: [(3, 54.0), (4, 44.0), (5, 42.0), (6, 28.0)],
    1: [(3, 39.0), (5, 33.0), (4, 26.0), (6, 16.0)],
    2: [(3, 51.0), (5, 45.0), (4, 30.0), (6, 18.0)],
}
BEST_USERS = {
    3: [(0, 54.0), (2, 51.0), (1, 39.0)],
    4: [(0, 44.0), (2, 30.0), (1, 26.0)],
    5: [(2, 45.0), (0, 42.0), (1, 33.0)],
    6: [(0, 28.0), (2, 18.0), (1, 16.0)],
}


def lists(table):
    return {row[0]: [tuple(entry) for entry in row[1]] for row in table.collect()}


def test_the_examples_of_sparks_documentation_run(spark, tmp_path):
    names = {"spark": spark, "temp_path": str(tmp_path), "ALS": ALS, "ALSModel": ALSModel}
    (example,) = doctest.DocTestFinder(recurse=False).find(spark_ml.ALS, "ALS", globs=names)
    failed = []

    class Runner(doctest.DocTestRunner):
        def report_failure(self, out, test, example, got):  # noqa: ARG002
            failed.append(example.source.strip())

        def report_unexpected_exception(self, out, test, example, exc_info):  # noqa: ARG002
            failed.append(f"{example.source.strip()}: {exc_info[1]}")

    result = Runner(optionflags=doctest.ELLIPSIS, verbose=False).run(example, clear_globs=False)
    assert result.attempted > 35
    assert [source for source in failed if not source.startswith(DEPEND_ON_THE_SEED)] == []


def test_parameters_accessors_and_defaults_are_sparks():
    ours, theirs = ALS(), spark_ml.ALS()
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public - set(dir(ours)) == set()
    for param in theirs.params:
        if param.name != "seed":  # Spark's differs from process to process
            assert ours.getOrDefault(param.name) == theirs.getOrDefault(param.name), param.name
    values = {
        "rank": 3, "maxIter": 4, "regParam": 0.5, "numUserBlocks": 6, "numItemBlocks": 7, "implicitPrefs": True,
        "alpha": 2.5, "userCol": "u", "itemCol": "i", "ratingCol": "r", "nonnegative": True, "checkpointInterval": 5,
        "intermediateStorageLevel": "DISK_ONLY", "finalStorageLevel": "MEMORY_ONLY", "coldStartStrategy": "drop",
        "blockSize": 99, "seed": 12, "predictionCol": "p",
    }  # fmt: skip
    assert {param.name for param in theirs.params} == set(values)
    for name, value in values.items():
        accessor = name[0].upper() + name[1:]
        assert getattr(ours, f"set{accessor}")(value) is ours
        assert getattr(ours, f"get{accessor}")() == value
    assert ALS().setNumBlocks(3).getNumUserBlocks() == ALS().setNumBlocks(3).getNumItemBlocks() == 3
    assert "rank: Number of latent factors" in ours.explainParams()
    assert {name for name in dir(spark_ml.ALSModel) if not name.startswith("_")} - set(dir(ALSModel)) == set()


def test_estimator_and_model_are_stored_with_every_parameter(ratings, tmp_path):
    als = ALS(
        rank=1, maxIter=1, regParam=0.01, numUserBlocks=2, numItemBlocks=2, implicitPrefs=True, alpha=0.9,
        nonnegative=True, checkpointInterval=20, intermediateStorageLevel="MEMORY_ONLY", predictionCol="score",
        finalStorageLevel="DISK_ONLY", coldStartStrategy="drop", blockSize=7,
    )  # fmt: skip
    als.write().overwrite().save(f"{tmp_path}/als")
    loaded = ALS.load(f"{tmp_path}/als")
    assert (loaded.uid, str(loaded)) == (als.uid, str(als))
    of = {p.name: v for p, v in als.extractParamMap().items()}
    assert {p.name: v for p, v in loaded.extractParamMap().items()} == of
    model = als.fit(ratings)
    assert model.userFactors.storageLevel.useDisk
    assert not model.userFactors.storageLevel.useMemory
    assert (model.uid, model.getBlockSize(), model.getPredictionCol()) == (als.uid, 7, "score")
    model.write().overwrite().save(f"{tmp_path}/model")
    again = ALSModel().load(f"{tmp_path}/model")
    assert (again.uid, str(again), again.rank) == (model.uid, str(model), 1)
    assert {p.name: v for p, v in again.extractParamMap().items()} == {
        p.name: v for p, v in model.extractParamMap().items()
    }
    copied = model.copy({model.predictionCol: "other"})
    assert copied.transform(ratings).columns[-1] == "other"
    model.userFactors.unpersist()
    model.itemFactors.unpersist()


@pytest.mark.parametrize("k", [2, 4, 6])
def test_lists_have_the_best_of_the_other_side(spark, fixed, k):
    assert lists(fixed.recommendForAllUsers(k)) == {user: best[:k] for user, best in BEST_ITEMS.items()}
    assert lists(fixed.recommendForAllItems(k)) == {item: best[:k] for item, best in BEST_USERS.items()}
    everyone = fixed.userFactors.withColumnRenamed("id", "user")
    assert lists(fixed.recommendForUserSubset(everyone, k)) == lists(fixed.recommendForAllUsers(k))
    users = spark.createDataFrame([(0,), (2,), (2,), (77,)], "user int")
    subset = fixed.recommendForUserSubset(users, k)
    assert lists(subset) == {user: BEST_ITEMS[user][:k] for user in (0, 2)}
    assert subset.schema.simpleString() == ("struct<user:int,recommendations:array<struct<item:int,rating:float>>>")
    items = spark.createDataFrame([(6,), (3,), (6,)], "item int")
    assert lists(fixed.recommendForItemSubset(items, k)) == {item: BEST_USERS[item][:k] for item in (3, 6)}


def test_lists_keep_to_candidates_and_leave_out_what_is_excluded_or_seen(spark, fixed):
    candidates = spark.createDataFrame([(4,), (6,), (6,), (99,)], "item int")
    excluded = spark.createDataFrame([(3,), (99,)], "item int")
    seen = spark.createDataFrame([(0, 5), (2, 4)], "user int, item int")

    def expected(keep):
        return {user: [entry for entry in best if keep(user, entry[0])] for user, best in BEST_ITEMS.items()}

    assert lists(fixed.recommendForAllUsers(4, candidates=candidates)) == expected(lambda _, item: item in (4, 6))
    assert lists(fixed.recommendForAllUsers(4, exclude=excluded)) == expected(lambda _, item: item != 3)
    assert lists(fixed.recommendForAllUsers(4, exclude=seen)) == lists(fixed.recommendForAllUsers(4, seen=seen))
    one = spark.createDataFrame([(1, 3)], "user int, item int")
    assert lists(fixed.recommendForAllUsers(4, seen=seen, exclude=one)) == expected(
        lambda user, item: (user, item) not in [(0, 5), (2, 4), (1, 3)]
    )
    best = fixed.recommendForAllUsers(4, seen=seen, exclude=excluded)
    assert lists(best) == expected(lambda user, item: item != 3 and (user, item) not in [(0, 5), (2, 4)])
    nothing = candidates.where("item = 99")
    assert lists(fixed.recommendForAllUsers(4, candidates=nothing)) == {0: [], 1: [], 2: []}
    with pytest.raises(SchemaError, match="column 'item' is missing"):
        fixed.recommendForAllUsers(4, candidates=spark.range(3))
    with pytest.raises(SchemaError, match="candidates apply to every user, but they have a column 'user'"):
        fixed.recommendForAllUsers(4, candidates=candidates.selectExpr("item", "1 AS User"))


def test_users_without_factors_get_what_is_popular(spark, fixed):
    users = spark.createDataFrame([(2,), (77,), (77,), (78,)], "user int")
    # 99 is the most popular of all, and unknown; 4 and 6 tie.
    rated = spark.createDataFrame([(i,) for i in (99, 99, 99, 99, 5, 5, 5, 6, 6, 4, 4, 3)], "item int")
    best = lists(fixed.recommendForUserSubset(users, 3, popular=rated))
    assert best == {2: BEST_ITEMS[2][:3], 77: [(5, None), (4, None), (6, None)], 78: [(5, None), (4, None), (6, None)]}
    excluded = spark.createDataFrame([(5,)], "item int")
    best = lists(fixed.recommendForUserSubset(users, 9, popular=rated, exclude=excluded))
    assert best[77] == [(4, None), (6, None), (3, None)]
    assert lists(fixed.recommendForUserSubset(users, 3)).keys() == {2}


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_similar_rows_are_those_with_the_nearest_factors(spark, fixed, metric):
    factors = {i: np.array(row) for i, row in factors_by_id(fixed.itemFactors).items()}

    def similarity(i, j):
        lengths = np.linalg.norm(factors[i]) * np.linalg.norm(factors[j]) if metric == "cosine" else 1
        return factors[i] @ factors[j] / lengths

    found = lists(fixed.similarItems(2, metric))
    for i, nearest in found.items():
        best = sorted((j for j in factors if j != i), key=lambda j, i=i: -similarity(i, j))[:2]
        assert [j for j, _ in nearest] == best
        np.testing.assert_allclose([s for _, s in nearest], [similarity(i, j) for j in best], rtol=1e-5)
    assert sorted(found) == [3, 4, 5, 6]
    some = spark.createDataFrame([(4,)], "item int")
    assert lists(fixed.similarItems(2, metric, subset=some)) == {4: found[4]}
    assert sorted(lists(fixed.similarUsers(1))) == [0, 1, 2]
    with pytest.raises(ConfigError, match="metric must be 'cosine' or 'dot', found 'l2'"):
        fixed.similarItems(2, "l2")


def test_similarity_leaves_biases_out(ratings):
    model = ALS(rank=2, maxIter=2, biases=True).fit(ratings)
    for _, nearest in lists(model.similarItems(3)).items():
        assert all(-1.00001 <= cosine <= 1.00001 for _, cosine in nearest)


@pytest.mark.parametrize("strategy", ["nan", "NaN", "Nan", "drop", "DROP", "Drop", "mean", "Mean"])
@pytest.mark.parametrize("biases", [False, True])
def test_cold_start_strategies(spark, ratings, strategy, biases):
    model = ALS(rank=2, maxIter=2, coldStartStrategy=strategy, biases=biases).fit(ratings)
    pairs = spark.createDataFrame([(0, 0), (0, 500), (500, 0), (500, 500)], "user int, item int")
    found = {(row.user, row.item): row.prediction for row in model.transform(pairs).collect()}
    if strategy.lower() == "drop":
        assert list(found) == [(0, 0)]
        return
    assert len(found) == 4
    if strategy.lower() == "nan":
        assert {pair for pair, prediction in found.items() if np.isnan(prediction)} == {(0, 500), (500, 0), (500, 500)}
        return
    mean = VALUES.mean()
    of_user = model.userFactors.where("id = 0").first()["bias"] if biases else 0
    of_item = model.itemFactors.where("id = 0").first()["bias"] if biases else 0
    assert model.globalMean == pytest.approx(mean)
    assert found[0, 500] == pytest.approx(mean + of_user, rel=1e-5)
    assert found[500, 0] == pytest.approx(mean + of_item, rel=1e-5)
    assert found[500, 500] == pytest.approx(mean, rel=1e-5)


IDS = {
    "tinyint": int, "smallint": int, "int": int, "bigint": lambda n: 2**40 + n,
    "float": float, "double": lambda n: n / 4,
    "decimal(10,2)": Decimal, "string": str, "boolean": lambda n: n == 0, "binary": lambda n: bytes([255, n]),
    "date": lambda n: datetime.date(2024, 1, 1 + n), "timestamp": lambda n: datetime.datetime(2024, 1, 1, n),
    "timestamp_ntz": lambda n: datetime.datetime(2024, 1, 1, n),
}  # fmt: skip


@pytest.mark.parametrize("id_type", IDS)
def test_ids_of_every_type_give_the_same_model_and_come_back_as_they_were(spark, id_type):
    make = IDS[id_type]
    # Two users only: there are no more booleans.
    pairs = [(u, i, float(1 + (u + 2 * i) % 5)) for u in range(2) for i in range(6) if (u + i) % 3]
    als = ALS(rank=2, maxIter=2).setNumBlocks(1)
    plain = als.fit(spark.createDataFrame(pairs, "user int, item int, rating float"))
    rows = [(make(1 - u) if id_type == "boolean" else make(u), i, r) for u, i, r in pairs]
    data = spark.createDataFrame(rows, f"user {id_type}, item int, rating float")
    model = als.fit(data)
    expected_type = "int" if id_type == "float" else id_type  # whole numbers
    assert model.userFactors.schema["id"].dataType.simpleString() == expected_type
    found, expected = (factors_by_id(m.userFactors) for m in (model, plain))
    by_position = dict(enumerate(found[key] for key in sorted(found)))
    assert_factors_close(by_position, {u: expected[u] for u in sorted(expected)}, rtol=1e-6)
    best = model.recommendForAllUsers(3, seen=data)
    assert {hashable(row.user) for row in best.collect()} == {hashable(row.user) for row in data.collect()}
    predictions = model.transform(data)
    assert predictions.where(F.isnan("prediction")).count() == 0


def test_floating_ids_may_not_be_nan_and_have_one_zero(spark):
    data = spark.createDataFrame([(float("nan"), 1, 1.0), (1.0, 1, 1.0)], "user double, item int, rating float")
    with pytest.raises(DataError, match="1 NaN user ids"):
        ALS().fit(data)
    zeros = spark.createDataFrame([(-0.0, 1, 1.0), (0.0, 2, 1.0)], "user double, item int, rating float")
    assert ALS(rank=1, maxIter=1).fit(zeros).userFactors.count() == 1


@pytest.mark.parametrize("column", ["user", "item", "rating"])
def test_every_numeric_type_of_a_column_gives_the_same_factors_and_predictions(ratings, column):
    def results(table):
        model = ALS(rank=2, maxIter=1).setNumBlocks(1).fit(table)
        sides = (factors_by_id(getattr(model, name)) for name in ("userFactors", "itemFactors"))
        pairs = {(row.user, row.item): [row.prediction] for row in model.transform(table).collect()}
        return [{float(key): row for key, row in factors.items()} for factors in sides], pairs

    whole = ratings.withColumn("rating", F.ceil("rating").cast("float"))
    expected_factors, expected_pairs = results(whole)
    for column_type in ("tinyint", "smallint", "int", "bigint", "float", "double", "decimal(9,1)"):
        found_factors, found_pairs = results(whole.withColumn(column, F.col(column).cast(column_type)))
        for found, expected in zip(found_factors, expected_factors, strict=True):
            assert_factors_close(found, expected, rtol=1e-6)
        assert_factors_close(found_pairs, expected_pairs, rtol=1e-6)


def test_models_of_sparks_own_als_are_read(ratings, tmp_path):
    theirs = spark_ml.ALS(rank=3, maxIter=2, seed=1, coldStartStrategy="drop", blockSize=17).fit(ratings)
    theirs.save(f"{tmp_path}/model")
    ours = ALSModel.load(f"{tmp_path}/model")
    assert (ours.rank, ours.uid, ours.getBlockSize(), ours.getColdStartStrategy()) == (3, theirs.uid, 17, "drop")
    expected = {(row.user, row.item): row.prediction for row in theirs.transform(ratings).collect()}
    found = {(row.user, row.item): row.prediction for row in ours.transform(ratings).collect()}
    assert found == pytest.approx(expected, rel=1e-5)
    assert lists(ours.recommendForAllUsers(3)).keys() == lists(theirs.recommendForAllUsers(3)).keys()
    with pytest.raises(RuntimeError, match="this model has no training parameters"):
        ours.foldInUsers(ratings)
    # As the message says. Spark's user factors are the answer to its item factors, so they come back.
    known = ALS(rank=3, maxIter=0, initialModel=ours).fit(ratings)
    folded = factors_by_id(known.foldInUsers(ratings).userFactors)
    assert_factors_close(folded, factors_by_id(theirs.userFactors), rtol=1e-4, atol=1e-5)


def test_sparks_own_model_reads_ours(ratings, tmp_path):
    model = ALS(rank=3, maxIter=2).fit(ratings.withColumn("user", F.col("user").cast("long")))
    model.write().option("format", "spark").save(f"{tmp_path}/model")
    theirs = spark_ml.ALSModel.load(f"{tmp_path}/model")
    assert theirs.rank == 3
    expected = {(row.user, row.item): row.prediction for row in model.transform(ratings).collect()}
    found = {(row.user, row.item): row.prediction for row in theirs.transform(ratings).collect()}
    assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConfigError, match="Spark's ALSModel has no biases"):
        ALS(maxIter=1, biases=True).fit(ratings).write().option("format", "spark").save(f"{tmp_path}/biased")
    named = ALS(maxIter=1).fit(ratings.withColumn("item", F.concat(F.lit("item "), F.col("item"))))
    with pytest.raises(ConfigError, match="int ids only, found 'item "):
        named.write().option("format", "spark").save(f"{tmp_path}/named")
    assert not (tmp_path / "named").exists()


@pytest.mark.parametrize("estimator", [ALS, SGD])
def test_a_stage_of_a_pipeline_is_stored_and_loaded(ratings, tmp_path, estimator):
    named = ratings.withColumn("name", F.concat(F.lit("u"), F.col("user")))
    stages = [StringIndexer(inputCol="name", outputCol="index"), estimator(rank=2, maxIter=2, userCol="index")]
    model = Pipeline(stages=stages).fit(named)
    model.save(f"{tmp_path}/model")
    loaded = PipelineModel.load(f"{tmp_path}/model")
    assert type(loaded.stages[1]) is type(model.stages[1]) is getattr(mfspark, f"{estimator.__name__}Model")
    before, after = ({(r.user, r.item): r.prediction for r in m.transform(named).collect()} for m in (model, loaded))
    assert before == after
    Pipeline(stages=stages).save(f"{tmp_path}/pipeline")
    assert Pipeline.load(f"{tmp_path}/pipeline").getStages()[1].getUserCol() == "index"


# Spark's own tuning leaves its pools of threads to the collector.
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed running:ResourceWarning"
)
def test_cross_validation_in_several_threads_finds_the_better_regularization(spark):
    R = 3 + low_rank_ratings(seed=3, n_users=20, n_items=12, rank=1)
    users, items = np.nonzero(R)
    ratings = spark.createDataFrame(ratings_table(users, items, R[users, items]))
    als = ALS(rank=2, maxIter=3, coldStartStrategy="drop", numUserBlocks=2, numItemBlocks=2)
    grid = ParamGridBuilder().addGrid(als.regParam, [0.1, 1000.0]).addGrid(als.rank, [1, 2]).build()
    judge = RegressionEvaluator(labelCol="rating", predictionCol="prediction")
    tuned = CrossValidator(
        estimator=als, estimatorParamMaps=grid, evaluator=judge, numFolds=2, parallelism=3, seed=1
    ).fit(ratings)
    assert tuned.bestModel.rank in (1, 2)
    assert max(tuned.avgMetrics[:2]) < min(tuned.avgMetrics[2:])
    split = TrainValidationSplit(estimator=als, estimatorParamMaps=grid, evaluator=judge, seed=1, parallelism=2)
    metrics = split.fit(ratings).validationMetrics
    assert max(metrics[:2]) < min(metrics[2:])


def test_parameter_maps_share_the_blocks_of_their_ratings(ratings, monkeypatch):
    n_blocked = []

    def count(ratings, blocks):
        n_blocked.append(blocks)
        return blocked_ratings(ratings, blocks)

    monkeypatch.setattr(mfspark.blocks.prepare, "blocked_ratings", count)
    als = ALS(rank=2, maxIter=2)
    maps = [{als.regParam: 0.1}, {als.regParam: 1.0}, {als.rank: 3, als.biases: True}, {als.numUserBlocks: 3}]
    found = dict(als.fitMultiple(ratings, maps))
    assert len(n_blocked) == 2
    for number, values in enumerate(maps):
        expected = factors_by_id(als.fit(ratings, values).itemFactors)
        assert_same_bytes(factors_by_id(found[number].itemFactors), expected)
    assert found[2].rank == 3


def test_a_failing_parameter_map_leaves_nothing_cached(spark, ratings):
    als = ALS(rank=15, maxIter=2)
    models = als.fitMultiple(ratings, [{als.regParam: 0.1}, {als.regParam: 0.0}, {als.regParam: 0.2}])
    before = len(spark.sparkContext._jsc.getPersistentRDDs())
    next(models)
    with pytest.raises(NumericalError, match="no unique solution"):
        next(models)
    assert len(spark.sparkContext._jsc.getPersistentRDDs()) == before
    assert next(models)[0] == 2
    assert len(spark.sparkContext._jsc.getPersistentRDDs()) == before


def test_scores_of_pairs_made_of_the_models_own_tables(spark, ratings, tmp_path):
    model = ALS(maxIter=1, seed=42).fit(ratings)
    model.write().overwrite().save(f"{tmp_path}/model")
    loaded = ALSModel().load(f"{tmp_path}/model")
    key = "spark.sql.analyzer.failAmbiguousSelfJoin"
    before = spark.conf.get(key)
    try:
        for value in ("false", "true"):
            spark.conf.set(key, value)
            users = loaded.userFactors.select(F.col("id").alias("user"))
            items = loaded.itemFactors.select(F.col("id").alias("item"))
            assert loaded.transform(users.crossJoin(items)).count() == 20 * 12
    finally:
        spark.conf.set(key, before)


def test_blocks_may_be_ours_to_choose(ratings):
    expected = factors_by_id(ALS(rank=2, maxIter=2).fit(ratings).userFactors)
    found = factors_by_id(ALS(rank=2, maxIter=2, numUserBlocks=0, numItemBlocks=0).fit(ratings).userFactors)
    assert_factors_close(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("rank", "of_model", "noise", "regularization", "bound", "n_blocks"),
    [
        (1, 1, 0.0, 1e-5, 0.001, 1),
        (1, 2, 0.0, 1e-5, 0.001, 2),
        (1, 2, 0.01, 0.01, 0.02, 2),
        (2, 3, 0.01, 0.01, 0.03, 5),
        (2, 2, 0.0, 1e-4, 0.002, 21),
    ],
)
def test_exact_and_noisy_matrices_are_recovered(spark, rank, of_model, noise, regularization, bound, n_blocks):
    # Spark's own bounds: 20 × 40, 60 % for training, 30 % for the test. Where the model has more factors than the
    # matrix, they are met from some initial factors only, by Spark's ALS as by ours: the best of three seeds.
    random = np.random.default_rng(0)
    R = random.uniform(-1, 1, (20, rank)) @ random.uniform(-1, 1, (rank, 40))
    pairs = list(itertools.product(range(20), range(40)))
    random.shuffle(pairs)
    rows = [(u, i, float(R[u, i] + noise * random.standard_normal())) for u, i in pairs]
    schema = "user int, item int, rating double"
    train, test = (spark.createDataFrame(part, schema) for part in (rows[:480], rows[480:720]))
    als = ALS(rank=of_model, regParam=regularization, numUserBlocks=n_blocks, numItemBlocks=n_blocks)
    squared = (F.col("prediction") - F.col("rating")) ** 2
    errors = [als.setSeed(seed).fit(train).transform(test).agg(F.sqrt(F.avg(squared))).first()[0] for seed in range(3)]
    assert min(errors) < bound


def test_rankings_have_the_shape_that_sparks_evaluator_wants(spark, fixed):
    # u0 gets 3, 4, u1 and u2 get 3, 5; relevant are 4 of u0, 3 and 5 of u1, nothing of u2.
    relevant = spark.createDataFrame([(0, 4), (1, 3), (1, 5)], "user int, item int")
    pairs = fixed.rankingPairs(fixed.recommendForAllUsers(2), relevant)
    assert pairs.schema.simpleString() == "struct<prediction:array<double>,label:array<double>>"
    judge = RankingEvaluator(k=2, metricName="precisionAtK")
    assert judge.evaluate(pairs) == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert judge.setMetricName("meanAveragePrecisionAtK").evaluate(pairs) == pytest.approx((1 / 2 + 1) / 2)


@pytest.mark.parametrize("is_implicit", [False, True])
def test_many_iterations_neither_grow_nor_fail(ratings, is_implicit):
    model = ALS(rank=2, maxIter=50, implicitPrefs=is_implicit, checkpointInterval=2, numUserBlocks=1, numItemBlocks=2)
    history = model.fit(ratings).summary.objective_history
    assert len(history) == 50
    assert history[-1] <= history[0]


def test_implicit_preferences_are_found(spark):
    # Spark's own test: preferences of rank 2; the error of clipped predictions, weighted by confidence, is below .3.
    random = np.random.default_rng(1)
    R = random.uniform(-1, 1, (20, 2)) @ random.uniform(-1, 1, (2, 40))
    users, items = np.nonzero(random.random(R.shape) < 0.6)
    values = R[users, items]
    data = spark.createDataFrame(ratings_table(users, items, values))
    als = ALS(rank=4, regParam=0.01, implicitPrefs=True, alpha=1.0)
    rows = als.fit(data).transform(data).select("rating", "prediction").toPandas().to_numpy()
    confidence = 1 + np.abs(rows[:, 0])
    errors = ((rows[:, 0] > 0) - np.clip(rows[:, 1], 0, 1)) ** 2
    assert np.sqrt((confidence * errors).sum() / confidence.sum()) < 0.3


def test_a_negative_rating_is_no_missing_one(spark):
    def factors(rating):
        rows = [(0, 0, 2.0), (0, 1, 2.0), (1, 0, 2.0), (1, 1, rating)]
        data = spark.createDataFrame(rows, "user int, item int, rating float")
        return factors_by_id(ALS(rank=2, implicitPrefs=True, alpha=1.0, seed=0).setNumBlocks(1).fit(data).itemFactors)

    negative, zero = factors(-3.0), factors(0.0)
    assert all(not np.isclose(negative[item], zero[item]).any() for item in (0, 1))


def test_no_prediction_is_beyond_the_bounds(spark):
    users, items = (
        FactorTable.of(spark.createDataFrame(rows, "id int, features array<float>"))
        for rows in ([(1, [2.0]), (2, [-2.0])], [(1, [1.5]), (2, [4.0])])
    )
    model = ALSModel(users, items, 1, None)
    pairs = spark.createDataFrame([(1, 1), (1, 2), (2, 1), (7, 1)], "user int, item int")
    found = {(row.user, row.item): row.prediction for row in model.copy().setClip([1, 5]).transform(pairs).collect()}
    assert (found[1, 1], found[1, 2], found[2, 1]) == (3.0, 5.0, 1.0)
    assert np.isnan(found[7, 1])
    assert model.copy().setClip([1, 5]).setColdStartStrategy("drop").transform(pairs).count() == 3
    assert {row.prediction for row in model.transform(pairs.where("user < 3")).collect()} == {3.0, 8.0, -3.0}
    for bounds in ([5, 1], [1], [1, float("inf")], [1, float("nan")]):
        with pytest.raises(ConfigError, match="clip must be the least and the greatest rating, such as"):
            model.copy().setClip(bounds).transform(pairs)
    with pytest.raises(ConfigError, match="clip is for explicit ratings"):
        ALS(clip=[0, 1], implicitPrefs=True).fit(pairs)
