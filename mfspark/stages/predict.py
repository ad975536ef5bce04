"""Predict: the score of given pairs, and what to do about ids the model does not know."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.stages.columns import column

_USER_FACTORS, _ITEM_FACTORS = "__mfspark_user_factors", "__mfspark_item_factors"
_USER_ID, _ITEM_ID = "__mfspark_user_id", "__mfspark_item_id"


def predict(
    pairs: DataFrame,
    user_factors: DataFrame,
    item_factors: DataFrame,
    global_mean: float,
    user_column: str,
    item_column: str,
    prediction_column: str,
) -> DataFrame:
    """Add the prediction of each pair as a float column; NaN where an id has no factors.

    It is the dot product of the pair's factors, and, where the tables have biases, these and the global mean.

    Parameters
    ----------
    pairs : any columns, among them user_column and item_column
    user_factors, item_factors : id, features array<float>, and bias float or none

    Cost: two joins, rank multiply-adds a pair. The factor tables' columns get names of their own first, so
    the joins stay unambiguous when the pairs were derived from the factor tables themselves.
    """
    users = user_factors.select(F.col("id").alias(_USER_ID), F.struct("*").alias(_USER_FACTORS))
    items = item_factors.select(F.col("id").alias(_ITEM_ID), F.struct("*").alias(_ITEM_FACTORS))
    joined = pairs.join(users, on=column(user_column) == F.col(_USER_ID), how="left").join(
        items, on=column(item_column) == F.col(_ITEM_ID), how="left"
    )
    user, item = F.col(_USER_FACTORS), F.col(_ITEM_FACTORS)
    score = _dot(user["features"], item["features"])
    if "bias" in user_factors.columns:
        score = F.lit(global_mean).cast("float") + user["bias"] + item["bias"] + score
    score = F.coalesce(score, F.lit(float("nan")).cast("float"))
    return joined.select(*[column(name) for name in pairs.columns], score.alias(prediction_column))


def _dot(left: Column, right: Column) -> Column:
    products = F.zip_with(left, right, lambda x, y: x * y)
    return F.aggregate(products, F.lit(0.0).cast("float"), lambda total, product: total + product)
