"""Measure the error on held-out ratings and the quality of rankings on real data.

The data folder has ml-100k/ with the five published folds u1 .. u5, and ml-1m/ratings.parquet (user_id, item_id,
rating). Predictions are clipped to the scale of the ratings. A hash of (user, item) makes the folds of MovieLens 1M.

    python scripts/bench_quality.py ../data als-100k sgd-100k als-1m sgd-1m course-1m implicit-1m
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import ALS, SGD, evaluation
from mfspark.ml.estimators import ALSModel

_COLUMNS = {"userCol": "user", "itemCol": "item", "seed": 1}
_BLOCKS = {"numUserBlocks": 2, "numItemBlocks": 2}

ESTIMATORS: dict[str, ALS | SGD] = {
    "als-100k": ALS(rank=80, maxIter=10, regParam=0.12, biases=True, biasRegParam=0.08, **_BLOCKS, **_COLUMNS),
    "sgd-100k": SGD(rank=40, maxIter=60, regParam=0.1, biases=True, biasRegParam=0.01, numBlocks=2, **_COLUMNS),
    "als-1m": ALS(
        rank=128, maxIter=20, regParam=1.3, regScaling=0.5, biases=True, biasRegParam=0.3, **_BLOCKS, **_COLUMNS
    ),
    "sgd-1m": SGD(rank=80, maxIter=60, regParam=0.07, biases=True, biasRegParam=0.01, numBlocks=2, **_COLUMNS),
}
# Both have the same objective.
_SAME = {"rank": 40, "regParam": 0.07, "biases": True, "biasRegParam": 0.01, "validationIndicatorCol": "is_test"}
SIDE_BY_SIDE: dict[str, ALS | SGD] = {
    "ALS": ALS(maxIter=20, **_SAME, **_BLOCKS, **_COLUMNS),
    "SGD, inverse": SGD(maxIter=60, numBlocks=2, **_SAME, **_COLUMNS),
    "SGD, adagrad": SGD(maxIter=60, schedule="adagrad", learningRate=0.05, numBlocks=2, **_SAME, **_COLUMNS),
}
_SHOWN_ITERATIONS = (1, 2, 5, 10, 20, 40, 60)
IMPLICIT = ALS(rank=32, maxIter=10, regParam=0.1, implicitPrefs=True, alpha=1.0, **_BLOCKS, **_COLUMNS)
_LIKED = 4.0
_N = 10


def folds_of_100k(spark: SparkSession, data: Path) -> Iterator[tuple[DataFrame, DataFrame]]:
    """The five published pairs of training and test ratings."""
    schema = "user long, item long, rating float, timestamp long"
    for fold in range(1, 6):
        parts = (spark.read.csv(f"{data}/ml-100k/u{fold}.{part}", schema, sep="\t") for part in ("base", "test"))
        yield tuple(part.drop("timestamp") for part in parts)  # type: ignore[misc]


def folds_of_1m(spark: SparkSession, data: Path) -> Iterator[tuple[DataFrame, DataFrame]]:
    """Five random folds."""
    ratings = spark.read.parquet(f"{data}/ml-1m/ratings.parquet").toDF("user", "item", "rating")
    number = F.pmod(F.xxhash64("user", "item"), F.lit(5))
    for fold in range(5):
        yield ratings.where(number != fold), ratings.where(number == fold)


def clipped_rmse(model: ALSModel, test: DataFrame) -> float:
    """RMSE of clipped predictions; for an unknown user or item the prediction is the model's mean."""
    prediction = F.when(F.isnan("prediction"), model.globalMean).otherwise(F.col("prediction"))
    clipped = F.greatest(F.lit(1.0), F.least(F.lit(5.0), prediction))
    return model.transform(test).agg(F.sqrt(F.avg((clipped - F.col("rating")) ** 2))).first()[0]  # type: ignore[index]


def measure_error(spark: SparkSession, name: str, data: Path) -> None:
    """Print the error of each fold and their mean."""
    folds = folds_of_100k if name.endswith("100k") else folds_of_1m
    errors, seconds = [], []
    for train, test in folds(spark, data):
        started = time.monotonic()
        model = ESTIMATORS[name].fit(train)
        seconds.append(time.monotonic() - started)
        errors.append(clipped_rmse(model, test))
    shown = ", ".join(f"{error:.4f}" for error in errors)
    print(f"{name}: RMSE {statistics.mean(errors):.4f} ({shown}); fit {statistics.median(seconds):.1f} s", flush=True)


def measure_course(spark: SparkSession, data: Path) -> None:
    """Print objective and held-out error (not clipped) by seconds, for ALS and SGD."""
    train, test = next(folds_of_1m(spark, data))
    ratings = train.withColumn("is_test", F.lit(False)).union(test.withColumn("is_test", F.lit(True))).cache()
    for name, estimator in SIDE_BY_SIDE.items():
        estimator.copy({estimator.maxIter: 1}).fit(ratings)  # compiles and warms up the session
        started = time.monotonic()
        history = estimator.fit(ratings).summary.history
        # Includes the time before the first iteration and after the last.
        seconds = time.monotonic() - started - sum(record.seconds for record in history)
        for record in history:
            seconds += record.seconds
            if record.iteration in _SHOWN_ITERATIONS:
                print(
                    f"{name}, {record.iteration:2d} iterations: {seconds:5.1f} s, objective {record.objective:9,.0f}, "
                    f"RMSE {record.validation_rmse:.4f}",
                    flush=True,
                )


def measure_ranking(spark: SparkSession, data: Path) -> None:
    """Print NDCG@10 of implicit feedback from ratings of at least 4, and that of the most popular unseen items."""
    train, test = next(folds_of_1m(spark, data))
    liked, relevant = (part.where(F.col("rating") >= _LIKED) for part in (train, test))
    model = IMPLICIT.fit(liked.withColumn("rating", F.lit(1.0)))
    lists = model.recommendForAllUsers(_N, liked)
    for name, ranked in (("implicit-1m", lists), ("most popular", evaluation.popular_lists(liked, _N))):
        metrics = evaluation.ranking_metrics(ranked, relevant, _N)
        print(f"{name}: NDCG@{_N} {metrics[f'ndcg_at_{_N}']:.4f}", flush=True)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("rows", nargs="+", choices=[*ESTIMATORS, "course-1m", "implicit-1m"])
    options = parser.parse_args()
    spark = (
        SparkSession.builder.master("local[*]")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.python.unix.domain.socket.enabled", "true")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    for row in options.rows:
        if row == "implicit-1m":
            measure_ranking(spark, options.data)
        elif row == "course-1m":
            measure_course(spark, options.data)
        else:
            measure_error(spark, row, options.data)
    spark.stop()


if __name__ == "__main__":
    main()
