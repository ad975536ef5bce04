"""A client of Spark Connect whose server has executors without mfspark; prints what happens before and after shipping.

python -m tests.cluster.connect_client URL FILE
"""

import json
import sys

from pyspark.sql import SparkSession

from mfspark import ALS
from mfspark.engine.session import ship
from mfspark.errors import ConfigError
from tests.asserts import factors_by_id
from tests.builders import random_ratings, ratings_table


def main(url: str, path: str) -> None:
    """Fit, ship, fit again; compare with a fit on the client."""
    spark = SparkSession.builder.remote(url).getOrCreate()
    ratings = spark.createDataFrame(ratings_table(*random_ratings(seed=7, n_users=200, n_items=120, n_ratings=4000)))
    als = ALS(rank=4, maxIter=2, numUserBlocks=2, numItemBlocks=2, engine="connect")
    try:
        als.fit(ratings)
        before = "fitted"
    except ConfigError as error:
        before = str(error)
    ship(spark, path)
    found, expected = (
        {raw_id: row.tobytes() for raw_id, row in factors_by_id(model.userFactors).items()}
        for model in (als.fit(ratings), als.copy({als.engine: "local"}).fit(ratings))
    )
    sys.stdout.write(json.dumps({"before": before, "users": len(found), "same": found == expected}) + "\n")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
