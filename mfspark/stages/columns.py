"""Columns by name, and the checks of their presence and type that all stages share."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    ByteType,
    DataType,
    DecimalType,
    IntegerType,
    LongType,
    NumericType,
    ShortType,
    StringType,
)

from mfspark.errors import SchemaError, did_you_mean

_ID_TYPES = (ByteType, ShortType, IntegerType, LongType, StringType, DecimalType)


def column(name: str) -> Column:
    """The top-level column of exactly this name, which may contain dots and backticks."""
    return F.col("`" + name.replace("`", "``") + "`")


def require_columns(table: DataFrame, names: list[str]) -> None:
    """Raise SchemaError when a column is missing."""
    present = {name.lower() for name in table.columns}
    for name in names:
        if name.lower() not in present:
            raise SchemaError(f"column '{name}' is missing; {did_you_mean(name, table.columns)}")


def require_id_column(table: DataFrame, name: str) -> None:
    """Raise SchemaError when an id column has a type that cannot be an id."""
    if not isinstance(_type_of(table, name), _ID_TYPES):
        raise SchemaError(
            f"id column '{name}' must be an integer, string or decimal, "
            f"found {_type_of(table, name).simpleString()}; cast it before"
        )


def require_numeric_column(table: DataFrame, name: str) -> None:
    """Raise SchemaError when a column is not numeric."""
    if not isinstance(_type_of(table, name), NumericType):
        raise SchemaError(
            f"column '{name}' must be of a numeric type, found {_type_of(table, name).simpleString()}; cast it before"
        )


def require_boolean_column(table: DataFrame, name: str) -> None:
    """Raise SchemaError when a column is not boolean."""
    if not isinstance(_type_of(table, name), BooleanType):
        raise SchemaError(
            f"column '{name}' must be boolean, found {_type_of(table, name).simpleString()}; cast it before"
        )


def _type_of(table: DataFrame, name: str) -> DataType:
    return table.select(column(name)).schema[0].dataType
