"""The models: stored and loaded, by us and by Spark."""

import numpy as np
import pytest
from pyspark.ml import recommendation as spark_ml
from pyspark.sql import functions as F

from mfspark import ALS, SGD, ALSModel, SGDModel
from mfspark.errors import ConfigError, SchemaError
from tests.asserts import assert_factors_close, assert_same_bytes, factors_by_id
from tests.builders import random_ratings, ratings_table

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=9, n_users=20, n_items=12, n_ratings=120)


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


def test_model_is_the_same_after_save_and_load(ratings, tmp_path):
    model = ALS(rank=2, maxIter=2, userCol="u.ser", predictionCol="p").fit(ratings.withColumnRenamed("user", "u.ser"))
    path = str(tmp_path / "model")
    model.write().overwrite().save(path)
    model.write().overwrite().save(path)
    loaded = ALSModel.load(path)
    assert (loaded.uid, loaded.rank) == (model.uid, 2)
    assert loaded.extractParamMap().values()
    assert (loaded.getUserCol(), loaded.getPredictionCol()) == ("u.ser", "p")
    assert_same_bytes(factors_by_id(loaded.userFactors), factors_by_id(model.userFactors))
    assert_same_bytes(factors_by_id(loaded.itemFactors), factors_by_id(model.itemFactors))
    assert model.hasSummary
    assert not loaded.hasSummary


def test_a_model_of_sgd_is_the_same_after_save_and_load(ratings, tmp_path):
    model = SGD(rank=3, maxIter=1, biases=True).fit(ratings)
    model.write().save(str(tmp_path / "model"))
    loaded = SGDModel.load(str(tmp_path / "model"))
    assert isinstance(model, SGDModel)
    assert isinstance(loaded, SGDModel)
    assert loaded.globalMean == model.globalMean
    assert_same_bytes(factors_by_id(loaded.userFactors), factors_by_id(model.userFactors))


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


def test_a_stored_model_is_replaced_only_when_the_new_one_is_whole(ratings, tmp_path):
    path = str(tmp_path / "model")
    model = ALS(rank=2, maxIter=1).fit(ratings)
    model.write().save(path)
    with_biases = ALS(rank=2, maxIter=1, biases=True).fit(ratings)
    with pytest.raises(ConfigError, match="no biases"):
        with_biases.write().overwrite().option("format", "spark").save(path)
    loaded = ALSModel.load(path)
    loaded.setPredictionCol("p").write().overwrite().save(path)  # what it has yet to read
    again = ALSModel.load(path)
    assert again.getPredictionCol() == "p"
    assert_same_bytes(factors_by_id(again.userFactors), factors_by_id(model.userFactors))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("settings", [{"biases": True}, {"implicitPrefs": True, "alpha": 2.0, "solver": "cg"}])
def test_training_goes_on_from_a_stored_model_to_the_same_bytes(ratings, tmp_path, settings):
    whole, half = (ALS(rank=5, maxIter=n, **settings).fit(ratings) for n in (4, 2))
    half.save(str(tmp_path / "model"))
    stored = ALSModel.load(str(tmp_path / "model"))
    resumed = ALS(rank=5, maxIter=2, initialModel=stored, **settings).fit(ratings)
    for table in ("userFactors", "itemFactors"):
        found, expected = (factors_by_id(getattr(model, table)) for model in (resumed, whole))
        assert_same_bytes(found, expected)
    assert resumed.summary.objective_history == whole.summary.objective_history[2:]


def test_predictions_and_recommendations_include_biases_and_survive_saving(ratings, tmp_path):
    fitted = ALS(rank=3, maxIter=3, biases=True).fit(ratings)
    fitted.write().save(str(tmp_path / "model"))
    X, Y = (
        np.array([[*row.features, row.bias] for row in table.orderBy("id").collect()])
        for table in (fitted.userFactors, fitted.itemFactors)
    )
    scores = VALUES.mean() + X[:, 3:] + Y[:, 3] + X[:, :3] @ Y[:, :3].T
    for model in (fitted, ALSModel.load(str(tmp_path / "model"))):
        assert model.globalMean == pytest.approx(VALUES.mean(), rel=1e-6)
        found = {(row.user, row.item): row.prediction for row in model.transform(ratings).collect()}
        expected = {pair: scores[pair] for pair in zip(USERS.tolist(), ITEMS.tolist(), strict=True)}
        assert found == pytest.approx(expected, abs=1e-5)
        best = {row["user"]: row["recommendations"] for row in model.recommendForAllUsers(4).collect()}
        for user in range(20):
            expected = np.sort(scores[user])[::-1][:4]
            assert [entry["rating"] for entry in best[user]] == pytest.approx(expected.tolist(), abs=1e-5)
        best = {row["item"]: row["recommendations"] for row in model.recommendForAllItems(2).collect()}
        assert [entry["rating"] for entry in best[3]] == pytest.approx(np.sort(scores[:, 3])[:-3:-1].tolist(), abs=1e-5)


def test_an_existing_prediction_column_is_refused(ratings):
    model = ALS(rank=2, maxIter=1).fit(ratings)
    with pytest.raises(SchemaError, match="column 'prediction' already exists"):
        model.transform(model.transform(ratings))


def test_no_mean_is_made_up(ratings, tmp_path):
    spark_ml.ALS(rank=2, maxIter=1, seed=1, numUserBlocks=2, numItemBlocks=2).fit(ratings).save(f"{tmp_path}/theirs")
    feedback = ALS(rank=2, maxIter=1, implicitPrefs=True).fit(ratings)
    feedback.save(f"{tmp_path}/ours")
    for model in (feedback, ALSModel.load(f"{tmp_path}/ours"), ALSModel.load(f"{tmp_path}/theirs")):
        assert model.globalMean is None
        with pytest.raises(ConfigError, match="'mean' needs a mean rating, and this model has none"):
            model.setColdStartStrategy("mean").transform(ratings)


def test_models_of_sparks_own_als_are_read(ratings, tmp_path):
    theirs = spark_ml.ALS(
        rank=3, maxIter=2, seed=1, coldStartStrategy="drop", blockSize=17, numUserBlocks=2, numItemBlocks=2
    ).fit(ratings)
    theirs.save(f"{tmp_path}/model")
    ours = ALSModel.load(f"{tmp_path}/model")
    assert (ours.rank, ours.uid, ours.getBlockSize(), ours.getColdStartStrategy()) == (3, theirs.uid, 17, "drop")
    expected = {(row.user, row.item): row.prediction for row in theirs.transform(ratings).collect()}
    found = {(row.user, row.item): row.prediction for row in ours.transform(ratings).collect()}
    assert found == pytest.approx(expected, rel=1e-5)
    users = [{row.user for row in model.recommendForAllUsers(3).collect()} for model in (ours, theirs)]
    assert users[0] == users[1]
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
