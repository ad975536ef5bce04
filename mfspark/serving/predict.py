"""Predict: the score of given pairs, and what to do about ids the model does not know."""

from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.tables.columns import column, is_nan

_USER_FACTORS, _ITEM_FACTORS = "__mfspark_user_factors", "__mfspark_item_factors"
_USER_ID, _ITEM_ID = "__mfspark_user_id", "__mfspark_item_id"


class PairColumns(NamedTuple):
    """Names of the columns that predictions are made from and put into."""

    user: str
    item: str
    prediction: str


def predict(
    pairs: DataFrame,
    user_factors: DataFrame,
    item_factors: DataFrame,
    global_mean: float | None,
    columns: PairColumns,
    *,
    is_mean_of_unknown: bool = False,
) -> DataFrame:
    """Add the prediction of each pair as a float column.

    Where an id has no factors it is NaN; or, with is_mean_of_unknown, the global mean plus the known biases.

    It is the dot product of the pair's factors, and, where the tables have biases, these and the global mean.

    Parameters
    ----------
    pairs : any columns, among them columns.user and columns.item
    user_factors, item_factors : id, features array<float>, and bias float or none

    Reading the result fails where an id is null or NaN, as with Spark's ALS: it is no id, so no unknown one either.

    Cost: two joins, rank multiply-adds a pair. The factor tables' columns get names of their own first, so
    the joins stay unambiguous when the pairs were derived from the factor tables themselves.
    """
    users = user_factors.select(F.col("id").alias(_USER_ID), F.struct("*").alias(_USER_FACTORS))
    items = item_factors.select(F.col("id").alias(_ITEM_ID), F.struct("*").alias(_ITEM_FACTORS))
    joined = pairs.join(users, on=_present(columns.user) == F.col(_USER_ID), how="left").join(
        items, on=_present(columns.item) == F.col(_ITEM_ID), how="left"
    )
    user, item = F.col(_USER_FACTORS), F.col(_ITEM_FACTORS)
    score = _dot(user["features"], item["features"])
    mean, zero = F.lit(global_mean).cast("float"), F.lit(0.0).cast("float")
    of_unknown = mean if is_mean_of_unknown else F.lit(float("nan")).cast("float")
    if "bias" in user_factors.columns:
        score = mean + user["bias"] + item["bias"] + score
        if is_mean_of_unknown:
            of_unknown = mean + F.coalesce(user["bias"], zero) + F.coalesce(item["bias"], zero)
    predicted = joined.withColumn(columns.prediction, F.coalesce(score, of_unknown))
    return predicted.drop(_USER_ID, _USER_FACTORS, _ITEM_ID, _ITEM_FACTORS)


def _present(name: str) -> Column:
    """The ids of a column; an error when one is null or NaN."""
    found = column(name)
    refused = F.raise_error(f"column '{name}' has ids that are null or NaN; drop these rows before transform")
    return F.when(column(name).isNull() | is_nan(name), refused).otherwise(found)


def _dot(left: Column, right: Column) -> Column:
    products = F.zip_with(left, right, lambda x, y: x * y)
    return F.aggregate(products, F.lit(0.0).cast("float"), lambda total, product: total + product)
