"""Converts ids of other tables to the type and spelling of the ids in a factor table."""

from pyspark.sql import DataFrame

from mfspark.tables.columns import is_collated, with_ids_of
from mfspark.training.factor_tables import FactorTable


def with_ids_in(factors: FactorTable, table: DataFrame, name: str) -> DataFrame:
    """Convert a column to the type and spelling of the factors' ids; drop rows whose value cannot be such an id.

    Cost: a join if the ids have a collation in which several spellings are equal; else none.
    """
    found = with_ids_of(table, name, factors.id_type)
    return factors.with_own_spelling(found, name) if is_collated(factors.id_type) else found
