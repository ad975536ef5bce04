"""Columns by name, and checks of their presence and type."""

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BinaryType,
    BooleanType,
    DataType,
    DateType,
    DoubleType,
    FloatType,
    IntegralType,
    NumericType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

from mfspark.errors import SchemaError, did_you_mean

_ATOMIC_TYPES = (NumericType, StringType, BinaryType, BooleanType, DateType, TimestampType, TimestampNTZType)


def column(name: str) -> Column:
    """The top-level column of exactly this name, which may contain dots and backticks."""
    return F.col("`" + name.replace("`", "``") + "`")


def is_floating(table: DataFrame, name: str) -> bool:
    """Whether a column has floating-point numbers."""
    return isinstance(_type_of(table, name), FloatType | DoubleType)


def is_text(table: DataFrame, name: str) -> bool:
    """Whether a column has strings."""
    return isinstance(_type_of(table, name), StringType)


def require_columns(table: DataFrame, names: list[str]) -> None:
    """Raise SchemaError if a column is missing."""
    present = {name.lower() for name in table.columns}
    for name in names:
        if name.lower() not in present:
            raise SchemaError(f"column '{name}' is missing; {did_you_mean(name, table.columns)}")


def require_id_column(table: DataFrame, name: str) -> None:
    """Raise SchemaError if an id column has a type that cannot be an id."""
    _require_atomic_column(table, name, "id column")


def require_timestamp_column(table: DataFrame, name: str) -> None:
    """Raise SchemaError if the type of a column has no order."""
    _require_atomic_column(table, name, "timestamp column")


def require_fold_column(table: DataFrame, name: str) -> None:
    """Raise SchemaError if a column does not have integers or strings."""
    if not isinstance(_type_of(table, name), IntegralType | StringType):
        raise SchemaError(
            f"fold column '{name}' must have integers or strings, found {_type_of(table, name).simpleString()}; cast "
            "it first"
        )


def _require_atomic_column(table: DataFrame, name: str, what: str) -> None:
    if not isinstance(_type_of(table, name), _ATOMIC_TYPES):
        raise SchemaError(
            f"{what} '{name}' must be a number, string, binary, boolean, date or timestamp, "
            f"found {_type_of(table, name).simpleString()}; cast it first"
        )


def require_numeric_column(table: DataFrame, name: str) -> None:
    """Raise SchemaError if a column is not numeric."""
    if not isinstance(_type_of(table, name), NumericType):
        raise SchemaError(
            f"column '{name}' must be numeric, found {_type_of(table, name).simpleString()}; cast it first"
        )


def require_boolean_column(table: DataFrame, name: str) -> None:
    """Raise SchemaError if a column is not boolean."""
    if not isinstance(_type_of(table, name), BooleanType):
        raise SchemaError(
            f"column '{name}' must be boolean, found {_type_of(table, name).simpleString()}; cast it first"
        )


def select_ratings(
    dataset: DataFrame, user: str, item: str, rating: str, weight: str | None, validation: str | None = None
) -> DataFrame:
    """user_id, item_id, rating float, and weight float and is_validation boolean where there are such columns.

    rating : as for `rating_column`
    """
    require_columns(dataset, [name for name in (user, item, rating, weight, validation) if name])
    require_id_column(dataset, user)
    require_id_column(dataset, item)
    if rating:
        require_numeric_column(dataset, rating)
    selected = [
        id_column(dataset, user).alias("user_id"),
        id_column(dataset, item).alias("item_id"),
        rating_column(rating),
    ]
    if weight is not None:
        require_numeric_column(dataset, weight)
        selected.append(column(weight).cast("float").alias("weight"))
    if validation is not None:
        require_boolean_column(dataset, validation)
        selected.append(column(validation).alias("is_validation"))
    return dataset.select(*selected)


def with_ids_of(table: DataFrame, name: str, id_type: DataType) -> DataFrame:
    """The rows whose `name` is an id of this type, cast to it, or null; as `id_of_type`."""
    if _type_of(table, name) == id_type:
        return table
    found = id_of_type(table, name, id_type)
    return table.where(column(name).isNull() | found.isNotNull()).withColumn(name, found)


def id_of_type(table: DataFrame, name: str, id_type: DataType) -> Column:
    """The values of a column as ids of this type; null for one that names nothing with an id of the type.

    For example a fraction or a number too large among integers, or a text that is no number.
    """
    own_type = _type_of(table, name)
    if own_type == id_type:
        return column(name)
    found = column(name).try_cast(id_type)
    is_same = found.isNotNull() if isinstance(own_type, StringType) else found.try_cast(own_type) == column(name)
    try:
        table.select(is_same).schema  # noqa: B018  # Spark Connect analyzes a plan only when it is asked for something
    except AnalysisException:  # no value of the one type is one of the other, as with bytes and numbers
        return F.lit(None).cast(id_type)
    return F.when(is_same, found)


def rating_column(name: str) -> Column:
    """The column rating float; name : "" if there is no such column and each row counts 1."""
    return (column(name) if name else F.lit(1.0)).cast("float").alias("rating")


def id_column(table: DataFrame, name: str) -> Column:
    """The ids of a column, each in one form where Spark takes several for equal.

    -0.0 is 0.0; of the spellings that a collation calls equal, all are the first in the order of their bytes. Cost: of
    a collated column a shuffle, of others none.
    """
    id_type = _type_of(table, name)
    if is_floating(table, name):
        return column(name) + F.lit(0.0).cast(id_type)
    if not is_collated(id_type):
        return column(name)
    return F.min(column(name).cast("binary")).over(Window.partitionBy(column(name))).cast("string").cast(id_type)


def is_collated(data_type: DataType) -> bool:
    """Whether strings of this type may be equal without having the same bytes."""
    return isinstance(data_type, StringType) and getattr(data_type, "collation", "UTF8_BINARY") != "UTF8_BINARY"


def _type_of(table: DataFrame, name: str) -> DataType:
    # The table already has its schema; Spark resolves a name in another case.
    if name in table.columns:
        return table.schema[name].dataType
    return table.select(column(name)).schema[0].dataType
