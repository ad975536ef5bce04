"""Measure how many iterations it takes to refit a judged model to all ratings.

It trains a model without the holdout and then continues with all ratings, for as many iterations as the pipeline does.
After each of these iterations it prints by how much the objective is above that of a fit to all ratings from random
factors. The data folder has ml-100k/u.data and ml-1m/ratings.parquet.

    python scripts/bench_refit.py ../data
"""

import argparse
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark import ALS, SGD
from mfspark.batch.pipeline import refit_iterations
from mfspark.config.sections import SplitConfig
from mfspark.tables.split import PART, SplitColumns, assign_parts

_COLUMNS = {"userCol": "user_id", "itemCol": "item_id", "seed": 1}
ESTIMATORS: dict[str, ALS | SGD] = {
    "ALS 10": ALS(rank=10, regParam=0.1, **_COLUMNS),
    "ALS 64": ALS(rank=64, regParam=0.05, **_COLUMNS),
    "ALS 64, 20 iterations": ALS(rank=64, regParam=0.05, maxIter=20, **_COLUMNS),
    "ALS 10, biases": ALS(rank=10, regParam=0.1, biases=True, **_COLUMNS),
    "ALS 32, cg": ALS(rank=32, regParam=0.1, solver="cg", **_COLUMNS),
    "ALS 32, implicit": ALS(rank=32, regParam=0.1, implicitPrefs=True, **_COLUMNS),
    "SGD 40, biases, 20 epochs": SGD(rank=40, regParam=0.07, biases=True, maxIter=20, **_COLUMNS),
    "SGD 40, biases, 60 epochs": SGD(rank=40, regParam=0.07, biases=True, maxIter=60, **_COLUMNS),
}
SPLITS = {"random": SplitConfig(holdout=0.1), "latest": SplitConfig(method="time", holdout=0.1)}


def ratings_of(spark: SparkSession, data: Path, name: str) -> DataFrame:
    """Columns user_id, item_id, rating, timestamp."""
    if name == "100K":
        schema = "user_id int, item_id int, rating float, timestamp long"
        return spark.read.csv(f"{data}/ml-100k/u.data", schema, sep="\t")
    return spark.read.parquet(f"{data}/ml-1m/ratings.parquet")


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["100K", "1M"])
    options = parser.parse_args()
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    columns = SplitColumns("user_id", "item_id", "timestamp")
    print("above the objective of a fit from the start, after 1, 2, … iterations")
    for size in options.sizes:
        ratings = ratings_of(spark, options.data, size)
        for split_name, split in SPLITS.items():
            if split.needs_timestamp and "timestamp" not in ratings.columns:
                continue
            judged = assign_parts(ratings, split, columns).where(F.col(PART) != "holdout").drop(PART)
            for name, estimator in ESTIMATORS.items():
                cold = estimator.fit(ratings).summary.history[-1].objective
                refit = estimator.copy().setMaxIter(refit_iterations(estimator.getMaxIter()))
                refitted = refit.setInitialModel(estimator.fit(judged)).fit(ratings)
                gaps = [record.objective / cold - 1 for record in refitted.summary.history]
                print(f"{size:5} {split_name:7} {name:26}", *(f"{gap:+8.3%}" for gap in gaps), flush=True)


if __name__ == "__main__":
    main()
