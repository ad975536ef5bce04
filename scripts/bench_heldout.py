"""Compare the held-out error with that of Spark's ALS at the same settings, as mean and spread over several seeds.

For each seed, a random four fifths of the ratings are for training; both libraries get the same ratings. Without --data
it uses only Spark's sample of 1,501 ratings; with --data also ml-100k/u.data and ml-1m/ratings.parquet of that folder.

    python scripts/bench_heldout.py --data ../data --sets sample 100K --seeds 5
"""

import argparse
import statistics
from pathlib import Path

import pyspark
from pyspark.ml.recommendation import ALS as SPARK_ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import ALS, evaluation

_COLUMNS = {"userCol": "user_id", "itemCol": "item_id", "coldStartStrategy": "drop"}
_BLOCKS = {"numUserBlocks": 2, "numItemBlocks": 2}


def ratings_of(spark: SparkSession, name: str, data: Path | None) -> DataFrame:
    """Columns user_id, item_id int, rating float."""
    if name == "sample":
        path = Path(pyspark.__path__[0]) / "data/mllib/als/sample_movielens_ratings.txt"
        part = F.split("value", "::")
        return spark.read.text(str(path)).select(
            *(part[place].cast("int").alias(key) for place, key in enumerate(("user_id", "item_id"))),
            part[2].cast("float").alias("rating"),
        )
    if name == "100K":
        return spark.read.csv(f"{data}/ml-100k/u.data", "user_id int, item_id int, rating float, at long", sep="\t")
    ratings = spark.read.parquet(f"{data}/ml-1m/ratings.parquet")
    return ratings.select(F.col("user_id").cast("int"), F.col("item_id").cast("int"), "rating")


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="+", default=["sample"], choices=["sample", "100K", "1M"])
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--lambdas", nargs="+", type=float, default=[0.01, 0.03, 0.1, 0.2])
    parser.add_argument("--iterations", nargs="+", type=int, default=[3, 5, 10, 20])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.extraJavaOptions", "-Xss8m").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    print("data     λ  iterations   Spark's RMSE ± spread    ours ± spread   difference, in spreads")
    for name in options.sets:
        ratings = ratings_of(spark, name, options.data).cache()
        parts = [evaluation.split(ratings, holdout=0.2, seed=seed, user="user_id", item="item_id").cache()
                 for seed in range(options.seeds)]  # fmt: skip
        for regularization in options.lambdas:
            for n_iterations in options.iterations:
                settings = {"rank": options.rank, "regParam": regularization, "maxIter": n_iterations}
                errors: dict[type, list[float]] = {SPARK_ALS: [], ALS: []}
                for seed, part in enumerate(parts):
                    for estimator, found in errors.items():
                        als = estimator(seed=seed, **settings, **_COLUMNS, **_BLOCKS)
                        predictions = als.fit(part.where("part = 'train'")).transform(part.where("part = 'holdout'"))
                        found.append(float(evaluation.rating_metrics(predictions)["rmse"] or 0))
                means = [statistics.fmean(found) for found in errors.values()]
                spreads = [statistics.stdev(found) for found in errors.values()]
                print(
                    f"{name:6}{regularization:5}{n_iterations:8}{means[0]:18.4f} ± {spreads[0]:.4f}"
                    f"{means[1]:12.4f} ± {spreads[1]:.4f}{(means[1] - means[0]) / spreads[0]:+12.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
