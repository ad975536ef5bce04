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
    user_column: str,
    item_column: str,
    prediction_column: str,
) -> DataFrame:
    """Add the dot product of the pair's factors as a float column; NaN where an id has no factors.

    Parameters
    ----------
    pairs : any columns, among them user_column and item_column
    user_factors, item_factors : id, features array<float>

    Cost: two joins, rank multiply-adds a pair. The factor tables' columns get names of their own first, so
    the joins stay unambiguous when the pairs were derived from the factor tables themselves.
    """
    users = user_factors.select(F.col("id").alias(_USER_ID), F.col("features").alias(_USER_FACTORS))
    items = item_factors.select(F.col("id").alias(_ITEM_ID), F.col("features").alias(_ITEM_FACTORS))
    joined = pairs.join(users, on=column(user_column) == F.col(_USER_ID), how="left").join(
        items, on=column(item_column) == F.col(_ITEM_ID), how="left"
    )
    score = F.coalesce(_dot(F.col(_USER_FACTORS), F.col(_ITEM_FACTORS)), F.lit(float("nan")).cast("float"))
    return joined.select(*[column(name) for name in pairs.columns], score.alias(prediction_column))


def _dot(left: Column, right: Column) -> Column:
    products = F.zip_with(left, right, lambda x, y: x * y)
    return F.aggregate(products, F.lit(0.0).cast("float"), lambda total, product: total + product)
