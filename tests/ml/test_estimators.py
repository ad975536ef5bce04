"""The estimators, as a user of pyspark.ml meets them."""

import doctest

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml import recommendation as spark_ml
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.feature import StringIndexer
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import functions as F

import mfspark
import mfspark.blocks.prepare
from mfspark import ALS, SGD, ALSModel
from mfspark.blocks.prepare import blocked_ratings
from mfspark.errors import ConfigError, NumericalError, SchemaError
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.sgd import StochasticGradientDescent
from tests.asserts import assert_same_bytes, factors_by_id
from tests.builders import low_rank_ratings, random_ratings, ratings_table, small_model

pytestmark = pytest.mark.spark

# These print what the seed's first factors lead to; ours are others.
DEPEND_ON_THE_SEED = ("predictions[", "user_recs", "item_recs", "user_subset_recs", "item_subset_recs")

USERS, ITEMS, VALUES = random_ratings(seed=9, n_users=20, n_items=12, n_ratings=120)


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


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


@pytest.mark.usefixtures("spark")
def test_estimator_is_the_same_after_save_and_load(tmp_path):
    als = ALS(rank=7, maxIter=3, regParam=0.2, numUserBlocks=4, seed=9, tol=0.1, ratingCol="stars")
    als.write().overwrite().save(str(tmp_path / "als"))
    loaded = ALS.load(str(tmp_path / "als"))
    assert loaded.uid == als.uid
    assert {param.name: value for param, value in loaded.extractParamMap().items()} == {
        param.name: value for param, value in als.extractParamMap().items()
    }


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


def test_settings_are_checked_before_the_ratings(ratings):
    unreadable = ratings.selectExpr("user", "raise_error('was read') AS item", "rating")
    with pytest.raises(ConfigError, match="rank must be finite and at least 1, found 0"):
        ALS(rank=0).fit(unreadable)
    with pytest.raises(ConfigError, match="learningRate must be above 0"):
        SGD(learningRate=0.0).fit(unreadable)
    als = ALS()
    with pytest.raises(ConfigError, match="maxIter must be finite and at least 0, found -1"):
        als.fit(unreadable, [{als.maxIter: 2}, {als.maxIter: -1}])


def test_a_failing_fit_leaves_nothing_cached(spark):
    # The fixture looks for what is still cached.
    failing = spark.range(1, 200).selectExpr(
        "id % 7 AS user", "id % 5 AS item", "if(id = 150, raise_error('broken row'), 1.0) AS rating"
    )
    with pytest.raises(Exception, match="broken row"):
        ALS(rank=2, maxIter=1).fit(failing)


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


@pytest.mark.classic
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


# Spark's own tuning leaves its pools of threads to the collector.
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed running:ResourceWarning"
)
def test_tuning_in_several_threads_finds_the_better_regularization_and_reads_the_ratings_once_a_fold(
    spark, monkeypatch
):
    n_blocked = []

    def count(ratings, blocks):
        n_blocked.append(blocks)
        return blocked_ratings(ratings, blocks)

    for module in (mfspark.blocks.prepare, mfspark.ml.estimators):
        monkeypatch.setattr(module, "blocked_ratings", count)
    R = 3 + low_rank_ratings(seed=3, n_users=20, n_items=12, rank=1)
    users, items = np.nonzero(R)
    ratings = spark.createDataFrame(ratings_table(users, items, R[users, items]))
    als = ALS(rank=2, maxIter=3, coldStartStrategy="drop", numUserBlocks=2, numItemBlocks=2)
    grid = ParamGridBuilder().addGrid(als.regParam, [0.1, 1000.0]).addGrid(als.rank, [1, 2]).build()
    judge = RegressionEvaluator(labelCol="rating", predictionCol="prediction")
    settings = {"estimator": als, "estimatorParamMaps": grid, "evaluator": judge, "seed": 1}
    tuned = CrossValidator(numFolds=2, parallelism=3, **settings).fit(ratings)
    assert len(n_blocked) == 2 + 1  # two folds, and the best of them on all ratings
    assert tuned.bestModel.rank in (1, 2)
    assert max(tuned.avgMetrics[:2]) < min(tuned.avgMetrics[2:])
    n_blocked.clear()
    metrics = TrainValidationSplit(parallelism=2, **settings).fit(ratings).validationMetrics
    assert len(n_blocked) == 1 + 1
    assert max(metrics[:2]) < min(metrics[2:])


def test_the_initial_model_is_set_as_other_parameters_are(spark):
    small = small_model(spark)
    als = ALS().setParams(initialModel=small, rank=1)
    assert als.getRank() == 1
    assert als._initial_model is small
    assert als.setParams(rank=2)._initial_model is small
    with pytest.raises(TypeError, match="ALS has no parameter 'ranc'"):
        als.setParams(ranc=3)


def test_an_initial_model_that_does_not_fit_is_refused(ratings):
    model = ALS(rank=3, maxIter=1).fit(ratings)
    with pytest.raises(ConfigError, match="rank must match the initial model: expected 3, found 4"):
        ALS(rank=4, initialModel=model).fit(ratings)
    with pytest.raises(ConfigError, match="biases must match the initial model: expected False, found True"):
        ALS(rank=3, biases=True).setInitialModel(model).fit(ratings)
    with pytest.raises(SchemaError, match="the initial model has int32 ids, the ratings have large_string ids"):
        ALS(rank=3, initialModel=model).fit(ratings.withColumn("user", ratings["user"].cast("string")))


def test_copies_keep_the_initial_model(ratings):
    model = ALS(rank=3, maxIter=3).fit(ratings)
    als = ALS(rank=3, maxIter=1, initialModel=model)
    first = als.fit(ratings, {als.regParam: 0.1}).summary.objective_history[0]
    assert first < model.summary.objective_history[-1]


class PowerCut(BaseException):
    """The end of a process."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("estimator", "solver"),
    [
        (ALS(rank=3, maxIter=5, biases=True, weightCol="rating"), AlternatingLeastSquares),
        (SGD(rank=3, maxIter=5, schedule="adagrad", biases=True, numBlocks=2), StochasticGradientDescent),
    ],
    ids=["ALS", "SGD"],
)
def test_an_interrupted_fit_goes_on_from_the_folder_of_its_checkpoints(
    ratings, tmp_path, monkeypatch, estimator, solver
):
    whole, iterate = estimator.fit(ratings), solver.iterate
    saved = estimator.copy({estimator.checkpointPath: f"{tmp_path}/a/b", estimator.checkpointInterval: 2})

    def iterate_three_times(solver, ratings, state, label):
        if len(state.history) == 3:
            raise PowerCut
        return iterate(solver, ratings, state, label)

    monkeypatch.setattr(solver, "iterate", iterate_three_times)
    with pytest.raises(PowerCut):
        saved.fit(ratings)
    monkeypatch.undo()
    assert names(tmp_path / "a/b") == ["iteration-000002.npz"]
    model = saved.fit(ratings.orderBy("rating"))
    assert model.summary.objective_history == whole.summary.objective_history
    for table in ("userFactors", "itemFactors"):
        found, expected = ({row.id: row for row in getattr(of, table).collect()} for of in (model, whole))
        assert found == expected
    assert names(tmp_path / "a/b") == ["iteration-000005.npz"]
    with np.load(tmp_path / "a/b/iteration-000005.npz", allow_pickle=False) as file:
        assert all(values.dtype.kind in "fu" for values in dict(file).values())


def test_a_checkpoint_of_other_settings_is_refused_by_their_names(ratings, tmp_path):
    als = ALS(rank=3, maxIter=1, checkpointPath=str(tmp_path))
    als.fit(ratings)
    before = (tmp_path / "iteration-000001.npz").read_bytes()
    message = (
        rf"the checkpoint in '{tmp_path}' was made with other settings: rank \(3 then, 4 now\), regScaling "
        r"\('count' then, 0.5 now\), userRegParam \(None then, 0.2 now\); use the same settings or another "
        "checkpointPath"
    )
    with pytest.raises(ConfigError, match=message):
        als.copy({als.rank: 4, als.regScaling: 0.5, als.userRegParam: 0.2}).fit(ratings)
    with pytest.raises(ConfigError, match=r"algorithm \('ALS' then, 'SGD' now\)"):
        SGD(rank=3, maxIter=1, checkpointPath=str(tmp_path)).fit(ratings)
    assert (tmp_path / "iteration-000001.npz").read_bytes() == before
    als.copy({als.predictionCol: "p", als.tol: 0.1, als.checkpointInterval: 3, als.blockSize: 9}).fit(ratings)


@pytest.mark.parametrize("settings", [{}, {"checkpointInterval": -1, "checkpointPath": "{}/never"}])
def test_without_a_path_or_an_interval_nothing_is_written(ratings, tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    ALS(rank=2, maxIter=2, **{key: str(value).format(tmp_path) if key == "checkpointPath" else value
                              for key, value in settings.items()}).fit(ratings)  # fmt: skip
    assert names(tmp_path) == []


def test_several_fits_do_not_share_a_checkpoint(ratings, tmp_path):
    als = ALS(rank=2, maxIter=1, checkpointPath=str(tmp_path))
    with pytest.raises(ConfigError, match="several fits cannot share one checkpointPath"):
        als.fit(ratings, [{als.regParam: 0.1}, {als.regParam: 0.2}])
    assert names(tmp_path) == []
    assert als.getCheckpointPath() == str(tmp_path)
