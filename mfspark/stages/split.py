"""Split: which ratings train, which validate each iteration, which judge the finished model."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.config import SplitConfig

PART = "part"
"""Name of the added column; its values are "train", "validation" and "holdout"."""

_BUCKETS = 1_000_000


def assign_parts(ratings: DataFrame, config: SplitConfig) -> DataFrame:
    """Add the column `part` to ratings of user_id and item_id, drawn by a hash of (seed, user, item).

    The same pair always falls into the same part, whatever the partitions and whatever other rows there
    are; ratings of one pair are never spread over two parts.
    """
    bucket = F.pmod(F.xxhash64(F.lit(config.seed), "user_id", "item_id"), F.lit(_BUCKETS))
    holdout_end = round(config.holdout * _BUCKETS)
    validation_end = holdout_end + round(config.validation * _BUCKETS)
    part = (
        F.when(bucket < holdout_end, F.lit("holdout"))
        .when(bucket < validation_end, F.lit("validation"))
        .otherwise(F.lit("train"))
    )
    return ratings.withColumn(PART, part)
