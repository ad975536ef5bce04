"""Parity with Spark's own ALS, on real ratings.

Spark solves items first, then users: its user factors are the exact answer to its item factors. So Spark's item
factors through our user half-iteration must give Spark's user factors, whatever either started from.
"""

import os

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyspark
import pytest
from pyspark import StorageLevel
from pyspark.ml import recommendation as spark_ml
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.sql import functions as F
from scipy.sparse import csr_matrix

from mfspark import ALS
from mfspark.blocks.prepare import BlockConfig, blocked_ratings
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.exchange import update_side
from mfspark.training.objective import Explicit, Implicit, Regularization
from tests.asserts import assert_factors_close, factors_by_id

pytestmark = pytest.mark.spark

BLOCKS = {"numUserBlocks": 2, "numItemBlocks": 2}


def movielens_sample(spark):
    path = os.path.join(os.path.dirname(pyspark.__file__), "data/mllib/als/sample_movielens_ratings.txt")
    parts = F.split("value", "::")
    return spark.read.text(path).select(
        parts[0].cast("int").alias("user"), parts[1].cast("int").alias("item"), parts[2].cast("float").alias("rating")
    )


def movielens_100k(spark, path):
    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(column_names=["user", "item", "rating", "timestamp"]),
        parse_options=pyarrow.csv.ParseOptions(delimiter="\t"),
    )
    columns = {"user": pa.int32(), "item": pa.int32(), "rating": pa.float32()}
    return spark.createDataFrame(pa.table({name: table[name].cast(kind) for name, kind in columns.items()}))


def signed_sample(spark):
    """Ratings of 1 and 2 become negative: confident zeros."""
    return movielens_sample(spark).withColumn("rating", F.col("rating") - F.lit(2.5).cast("float"))


def our_user_half_iteration(
    ratings, item_factors: dict, regularization: float, objective=None, method="cholesky", scaling="count"
):
    """Our user factors, by id, for these item factors, through blocks, broadcast and kernel."""
    renamed = ratings.select(F.col("user").alias("user_id"), F.col("item").alias("item_id"), "rating")
    src_factors = np.array([item_factors[item] for item in sorted(item_factors)], np.float32)
    doubles = src_factors.astype(np.float64)
    solver = AlternatingLeastSquares(
        src_factors.shape[1], Regularization(regularization, regularization, scaling), objective or Explicit(), method
    )
    with blocked_ratings(renamed, BlockConfig(3, 2, StorageLevel.MEMORY_ONLY, "rdd")) as blocks:
        user_ids = blocks.users.ids.ids.to_pylist()
        old = np.ones((len(user_ids), solver.rank), np.float32)
        updates, _ = update_side(blocks, "user", solver, src_factors, doubles.T @ doubles, old)
    return {
        user_ids[row]: factors
        for update in updates
        for row, factors in zip(range(update.rows.start, update.rows.stop), update.factors, strict=True)
    }


@pytest.mark.parametrize(("rank", "regularization"), [(10, 0.1), (64, 0.05)])
def test_half_iteration_gives_sparks_user_factors_on_the_sample(spark, rank, regularization):
    ratings = movielens_sample(spark).persist()
    model = spark_ml.ALS(rank=rank, maxIter=2, regParam=regularization, seed=3, **BLOCKS).fit(ratings)
    solved = our_user_half_iteration(ratings, factors_by_id(model.itemFactors), regularization)
    assert_factors_close(solved, factors_by_id(model.userFactors), rtol=1e-4, atol=1e-6)
    ratings.unpersist()


@pytest.mark.parametrize("alpha", [0.5, 40.0])
def test_implicit_half_iteration_gives_sparks_user_factors(spark, alpha):
    ratings = signed_sample(spark)
    model = spark_ml.ALS(rank=10, maxIter=2, regParam=0.1, implicitPrefs=True, alpha=alpha, seed=1, **BLOCKS).fit(
        ratings
    )
    solved = our_user_half_iteration(ratings, factors_by_id(model.itemFactors), 0.1, Implicit(alpha))
    assert_factors_close(solved, factors_by_id(model.userFactors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implicit", [False, True])
def test_nonnegative_half_iteration_gives_sparks_user_factors(spark, implicit):
    ratings = movielens_sample(spark)
    als = spark_ml.ALS(rank=10, maxIter=2, regParam=0.1, implicitPrefs=implicit, nonnegative=True, seed=1, **BLOCKS)
    model = als.fit(ratings)
    objective = Implicit(1.0) if implicit else Explicit()
    solved = our_user_half_iteration(ratings, factors_by_id(model.itemFactors), 0.1, objective, "nonnegative")
    assert min(factors.min() for factors in solved.values()) == 0
    # Spark's solver stops at a tolerance of its own.
    assert_factors_close(solved, factors_by_id(model.userFactors), rtol=1e-3, atol=1e-4)


def test_implicit_half_iteration_gives_the_library_implicits_user_factors(spark):
    implicit_als = pytest.importorskip("implicit.cpu.als")
    rows = signed_sample(spark).collect()
    users, items, values = (np.array(column) for column in zip(*rows, strict=True))
    item_ids = np.unique(items)
    matrix = csr_matrix((values, (users, np.searchsorted(item_ids, items))), dtype=np.float32)
    Y = np.random.default_rng(4).standard_normal((item_ids.size, 8)).astype(np.float32)
    X = np.zeros((matrix.shape[0], 8), np.float32)
    implicit_als.least_squares(matrix, X, Y, 0.3, num_threads=1)
    solved = our_user_half_iteration(
        signed_sample(spark),
        dict(zip(item_ids.tolist(), Y, strict=True)),
        0.3,
        Implicit(alpha=1.0, confidence_offset=0.0),
        scaling="none",
    )
    assert_factors_close(solved, {int(user): X[user] for user in np.unique(users)}, rtol=1e-4, atol=1e-5)


def test_half_iteration_gives_sparks_user_factors_on_movielens_100k(spark, real_data):
    ratings = movielens_100k(spark, real_data / "ml-100k/u.data").persist()
    model = spark_ml.ALS(rank=10, maxIter=5, regParam=0.05, seed=3, **BLOCKS).fit(ratings)
    solved = our_user_half_iteration(ratings, factors_by_id(model.itemFactors), 0.05)
    assert_factors_close(solved, factors_by_id(model.userFactors), rtol=1e-4, atol=1e-6)
    ratings.unpersist()


def test_five_fold_error_on_movielens_100k_is_sparks(spark, real_data):
    settings = {"rank": 10, "maxIter": 15, "regParam": 0.05, "seed": 1, **BLOCKS}
    errors = {spark_ml.ALS: [], ALS: []}
    for fold in range(1, 6):
        train, test = (movielens_100k(spark, real_data / f"ml-100k/u{fold}.{part}") for part in ("base", "test"))
        for estimator in (spark_ml.ALS, ALS):
            predictions = estimator(coldStartStrategy="drop", **settings).fit(train).transform(test)
            error = F.col("prediction") - F.col("rating")
            errors[estimator].append(predictions.agg(F.sqrt(F.avg(error * error))).first()[0])
    ours, sparks = np.mean(errors[ALS]), np.mean(errors[spark_ml.ALS])
    assert abs(ours - sparks) < 0.005, f"mean RMSE of five folds: ours {ours:.4f}, Spark's {sparks:.4f}"


@pytest.mark.parametrize("n_iterations", [3, 10])
def test_held_out_error_of_few_ratings_and_a_small_lambda_is_no_higher_than_sparks(spark, n_iterations):
    ratings = movielens_sample(spark).coalesce(1).persist()
    errors = {spark_ml.ALS: [], ALS: []}
    for seed in range(3):
        train, test = ratings.randomSplit([0.8, 0.2], seed)
        for estimator, of_seeds in errors.items():
            als = estimator(maxIter=n_iterations, regParam=0.01, coldStartStrategy="drop", seed=seed, **BLOCKS)
            of_seeds.append(RegressionEvaluator(labelCol="rating").evaluate(als.fit(train).transform(test)))
    ratings.unpersist()
    assert np.mean(errors[ALS]) <= np.mean(errors[spark_ml.ALS])
