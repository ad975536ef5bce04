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
from pyspark.sql import functions as F

from mfspark import ALS
from mfspark.solvers.als import ExplicitALS
from mfspark.solvers.exchange import update_side
from mfspark.stages.block import block_ratings
from mfspark.stages.encode import encode_ratings
from mfspark.stages.index import index_ratings
from tests.asserts import assert_factors_close, factors_by_id

pytestmark = pytest.mark.spark


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


def our_user_half_iteration(ratings, item_factors: dict, regularization: float) -> dict:
    """Our user factors for these item factors, through blocks, broadcast and kernel."""
    encoded = encode_ratings(ratings.select(F.col("user").alias("user_id"), F.col("item").alias("item_id"), "rating"))
    index = index_ratings(encoded)
    blocked = block_ratings(encoded, index, 3, 2, StorageLevel.MEMORY_ONLY)
    src_factors = np.array([item_factors[item] for item in sorted(item_factors)], np.float32)
    solver = ExplicitALS(src_factors.shape[1], regularization)
    updates = update_side(blocked, "user", src_factors, solver.update_block)
    user_ids = index.users.ids.to_pylist()
    solved = {
        user_ids[row]: factors
        for update in updates
        for row, factors in zip(range(update.rows.start, update.rows.stop), update.factors, strict=True)
    }
    blocked.release()
    return solved


@pytest.mark.parametrize(("rank", "regularization"), [(10, 0.1), (64, 0.05)])
def test_half_iteration_gives_sparks_user_factors_on_the_sample(spark, rank, regularization):
    ratings = movielens_sample(spark).persist()
    model = spark_ml.ALS(rank=rank, maxIter=3, regParam=regularization, seed=3).fit(ratings)
    solved = our_user_half_iteration(ratings, factors_by_id(model.itemFactors), regularization)
    assert_factors_close(solved, factors_by_id(model.userFactors), rtol=1e-4, atol=1e-6)
    ratings.unpersist()


def test_half_iteration_gives_sparks_user_factors_on_movielens_100k(spark, real_data):
    ratings = movielens_100k(spark, real_data / "ml-100k/u.data").persist()
    model = spark_ml.ALS(rank=10, maxIter=5, regParam=0.05, seed=3).fit(ratings)
    solved = our_user_half_iteration(ratings, factors_by_id(model.itemFactors), 0.05)
    assert_factors_close(solved, factors_by_id(model.userFactors), rtol=1e-4, atol=1e-6)
    ratings.unpersist()


def test_five_fold_error_on_movielens_100k_is_sparks(spark, real_data):
    settings = {"rank": 10, "maxIter": 15, "regParam": 0.05, "seed": 1}
    errors = {spark_ml.ALS: [], ALS: []}
    for fold in range(1, 6):
        train, test = (movielens_100k(spark, real_data / f"ml-100k/u{fold}.{part}") for part in ("base", "test"))
        for estimator in (spark_ml.ALS, ALS):
            predictions = estimator(coldStartStrategy="drop", **settings).fit(train).transform(test)
            error = F.col("prediction") - F.col("rating")
            errors[estimator].append(predictions.agg(F.sqrt(F.avg(error * error))).first()[0])
    ours, sparks = np.mean(errors[ALS]), np.mean(errors[spark_ml.ALS])
    assert abs(ours - sparks) < 0.005, f"mean RMSE of five folds: ours {ours:.4f}, Spark's {sparks:.4f}"
