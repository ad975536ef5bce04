"""Predict: the scores of given pairs, with a strategy for unknown ids."""

from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from mfspark.tables.columns import column, id_of_type, is_floating

_USER, _ITEM = "__mfspark_user", "__mfspark_item"
_USER_ID, _ITEM_ID = "__mfspark_user_id", "__mfspark_item_id"


class PairColumns(NamedTuple):
    """Names of the input columns and the prediction column."""

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

    It is the dot product of the pair's factors; with biases, plus these and the global mean. If an id has no factors it
    is NaN or, with is_mean_of_unknown, the global mean plus the known biases.

    Parameters
    ----------
    pairs : columns.user, columns.item and any other columns
    user_factors, item_factors : id, features array<float>, optionally bias float

    Reading the result fails if an id is null or NaN, as in Spark's ALS.

    Cost: two joins, rank multiply-adds per pair. The columns of the factor tables are renamed first, so the joins stay
    unambiguous if the pairs come from the factor tables themselves.
    """
    # SQL text, because each call of a Column method is a message to the JVM: a hundred of them take longer than a small
    # table.
    users = user_factors.selectExpr(f"id AS {_USER_ID}", f"struct(*) AS {_USER}")
    items = item_factors.selectExpr(f"id AS {_ITEM_ID}", f"struct(*) AS {_ITEM}")
    user_type, item_type = user_factors.schema["id"].dataType, item_factors.schema["id"].dataType
    joined = pairs.join(users, on=_id_of(pairs, columns.user, user_type) == F.col(_USER_ID), how="left").join(
        items, on=_id_of(pairs, columns.item, item_type) == F.col(_ITEM_ID), how="left"
    )
    products = f"zip_with({_USER}.features, {_ITEM}.features, (x, y) -> x * y)"
    score = f"aggregate({products}, cast(0 AS float), (total, product) -> total + product)"
    mean = f"cast('{global_mean}' AS float)" if global_mean is not None else "cast(NULL AS float)"
    of_unknown = mean if is_mean_of_unknown else "cast('NaN' AS float)"
    if "bias" in user_factors.columns:
        score = f"{mean} + {_USER}.bias + {_ITEM}.bias + {score}"
        if is_mean_of_unknown:
            zero = "cast(0 AS float)"
            of_unknown = f"{mean} + coalesce({_USER}.bias, {zero}) + coalesce({_ITEM}.bias, {zero})"
    predicted = joined.withColumn(columns.prediction, F.expr(f"coalesce({score}, {of_unknown})"))
    return predicted.drop(_USER_ID, _USER, _ITEM_ID, _ITEM)


def _id_of(pairs: DataFrame, name: str, id_type: DataType) -> Column:
    """The ids of a column, as of the type of the factors' ids; an error when one is null or NaN."""
    found = column(name)
    is_missing = found.isNull()
    if is_floating(pairs, name):
        is_missing = is_missing | F.isnan(found)
    refused = F.raise_error(f"column '{name}' has ids that are null or NaN; drop these rows before transform")
    return F.when(is_missing, refused).otherwise(id_of_type(pairs, name, id_type))
