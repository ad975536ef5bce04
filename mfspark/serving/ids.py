"""Ids of other tables as those of a factor table."""

from pyspark.sql import DataFrame

from mfspark.tables.columns import is_collated, with_ids_of
from mfspark.training.factor_tables import FactorTable


def with_ids_in(factors: FactorTable, table: DataFrame, name: str) -> DataFrame:
    """The rows whose `name` may be an id of the factors, in its type and spelling, or null.

    Cost: a join if the ids are of a collation that takes several spellings for equal; else none.
    """
    found = with_ids_of(table, name, factors.id_type)
    return factors.with_own_spelling(found, name) if is_collated(factors.id_type) else found
