"""Baselines for the metrics of a model."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.tables.columns import column

_ITEM_SHRINKAGE, _USER_SHRINKAGE = 25.0, 10.0  # ratings; Koren's values for Netflix
_USER, _USER_BIAS = "__mfspark_user", "__mfspark_user_bias"
_ITEM, _ITEM_BIAS = "__mfspark_item", "__mfspark_item_bias"
_MEAN = "__mfspark_mean"


def count_ratings(ratings: DataFrame, item: str = "item_id") -> DataFrame:
    """id, count: the number of ratings of each item. Cost: one aggregation."""
    return ratings.groupBy(column(item).alias("id")).count()


def add_mean_and_biases(
    pairs: DataFrame, ratings: DataFrame, name: str, user: str = "user_id", item: str = "item_id"
) -> DataFrame:
    """Add the prediction b_ui = μ + b_i + b_u of each pair as a double column.

    With the mean μ of the training ratings r, and n ratings of an item or user,

        b_i = Σ_u (r_ui − μ) / (25 + n_i),   b_u = Σ_i (r_ui − μ − b_i) / (10 + n_u)

    and 0 for an id without ratings (Koren, ACM TKDD 4(1), 2010, section 2.1). A rating of weight w counts w times.

    Parameters
    ----------
    pairs : id columns with the names `user` and `item`, any others
    ratings : user_id, item_id, rating, optionally weight; training ratings only

    Cost: an aggregation of all, one by item, a join and one by user, and two joins of the pairs.
    """
    weight = F.col("weight").cast("double") if "weight" in ratings.columns else F.lit(1.0)
    weighted = ratings.select("user_id", "item_id", F.col("rating").cast("double"), weight.alias("weight"))
    total = weighted.agg((F.sum(F.col("rating") * F.col("weight")) / F.sum("weight")).alias(_MEAN))
    mean, deviation = F.col(_MEAN), F.col("rating") - F.col(_MEAN)
    weighted = weighted.crossJoin(F.broadcast(total))
    items = weighted.groupBy(F.col("item_id").alias(_ITEM)).agg(
        _shrunk_mean(deviation, _ITEM_SHRINKAGE).alias(_ITEM_BIAS)
    )
    users = (
        weighted.join(items, F.col("item_id") == F.col(_ITEM), "inner")
        .groupBy(F.col("user_id").alias(_USER))
        .agg(_shrunk_mean(deviation - F.col(_ITEM_BIAS), _USER_SHRINKAGE).alias(_USER_BIAS))
    )
    zero = F.lit(0.0)
    prediction = mean + F.coalesce(_ITEM_BIAS, zero) + F.coalesce(_USER_BIAS, zero)
    return (
        pairs.join(items, column(item) == F.col(_ITEM), "left")
        .join(users, column(user) == F.col(_USER), "left")
        .crossJoin(F.broadcast(total))
        .withColumn(name, prediction)
        .drop(_ITEM, _ITEM_BIAS, _USER, _USER_BIAS, _MEAN)
    )


def _shrunk_mean(deviation: Column, shrinkage: float) -> Column:
    return F.sum(deviation * F.col("weight")) / (F.sum("weight") + shrinkage)
