"""Tables of recommendations. This is the one place that knows their two layouts.

::

    nested    <user>, recommendations array<struct<<item>, score, …>>, best first: a row for each user
    flat      <user>, <item>, rank int (the best item is 1), score float, …, run_id: a row for each recommendation

`…` is `is_fallback` if popular items fill the lists, then the columns of the table of items. A published table calls
the prediction `score`; the lists of a model, as in Spark's ALS, call it `rating`.
"""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from mfspark.config.sections import RUN_COLUMN, ListLayout
from mfspark.errors import DataError
from mfspark.tables.columns import column, require_columns, with_ids_of

NESTED = "recommendations"
"""Column of the nested layout that holds the lists."""
_RANK = "rank"
_ITEM_ID = "id of the item"


@dataclass(frozen=True)
class ListWriter:
    """Makes the table of recommendations that readers get from the lists of a model."""

    user: str
    item: str
    layout: ListLayout
    run: str
    """Name of the run, for the flat layout."""
    items: DataFrame | None = None
    """Columns to add for each item, as `columns_of_items` returns them; None: no more columns."""

    def table(self, lists: DataFrame, user: str, item: str) -> DataFrame:
        """Recommendations in the layout and with the names of this writer.

        lists : user, recommendations array<struct<item, rating[, is_fallback]>>, best first, with these two names

        Cost: with `items` a join by item, and for the nested layout a shuffle by user.
        """
        if self.layout == "nested" and self.items is None:
            entries = F.transform(NESTED, lambda entry: F.struct(*self._fields(lists, entry, item)))
            return lists.select(column(user).alias(self.user), entries.alias(NESTED))
        # For the nested layout a user with an empty list keeps a row, which has no place and no entry.
        exploded = F.posexplode_outer if self.layout == "nested" else F.posexplode
        rows = lists.select(column(user).alias(self.user), exploded(NESTED).alias("place", "entry"))
        rank = (F.col("place") + 1).alias(_RANK)
        rows = rows.select(column(self.user), rank, *self._fields(lists, F.col("entry"), item))
        if self.items is not None:
            own = column(self.item) == column(_ITEM_ID)
            rows = rows.join(self.items, own, "left").drop(_ITEM_ID)
        if self.layout == "nested":
            return _gathered(rows, self.user)
        first = [self.user, self.item, _RANK]
        others = [name for name in rows.columns if name not in first]
        return rows.select(*map(column, first + others), F.lit(self.run).alias(RUN_COLUMN))

    def _fields(self, lists: DataFrame, entry: Column, item: str) -> list[Column]:
        names = {item: self.item, "rating": "score", "is_fallback": "is_fallback"}
        fields = lists.schema[NESTED].dataType.elementType.fieldNames()  # type: ignore[attr-defined]
        return [entry[name].alias(names[name]) for name in fields]


def nested(table: DataFrame, user: str, item: str) -> DataFrame:
    """Recommendations of either layout as user, recommendations array<struct<item, …>>, best first.

    Raises
    ------
    SchemaError    a column is missing

    Cost: none for the nested layout; a shuffle by user for the flat one, which has no row for a user without
    recommendations.
    """
    if NESTED not in table.columns and {item, _RANK} <= set(table.columns):
        require_columns(table, [user])
        return _gathered(table.drop(RUN_COLUMN), user)
    require_columns(table, [user, NESTED])
    return table.select(column(user), column(NESTED))


def columns_of_items(table: DataFrame, id_name: str, names: list[str], id_type: DataType, source: str) -> DataFrame:
    """The columns of a table of items that lists get, with the id of each item. Rows whose id is null, or no id of the
    type, are left out.

    names : of the columns
    id_type : of the item ids in the lists
    source : how messages name the table

    Raises
    ------
    SchemaError    a column is missing
    DataError      an id is in several rows

    Cost: one aggregation.
    """
    require_columns(table, [id_name, *names])
    known = with_ids_of(table, id_name, id_type)
    items = known.select(column(id_name).alias(_ITEM_ID), *(column(name).alias(name) for name in names))
    items = items.where(column(_ITEM_ID).isNotNull())
    twice = items.groupBy(_ITEM_ID).count().where("count > 1").orderBy(_ITEM_ID).first()
    if twice is not None:
        raise DataError(
            f"column '{id_name}' of {source} has the item {twice[0]!r} in {twice['count']} rows; expected one row for "
            "each item; remove the others"
        )
    return items


def _gathered(rows: DataFrame, user: str) -> DataFrame:
    """User, rank and the fields of an entry → user, recommendations; a row without rank is of an empty list."""
    names = [name for name in rows.columns if name not in (user, _RANK)]
    entry = F.struct(_RANK, F.struct(*map(column, names)).alias("entry"))
    in_order = F.array_sort(
        F.collect_list(F.when(F.col(_RANK).isNotNull(), entry)), lambda one, other: one[_RANK] - other[_RANK]
    )
    return rows.groupBy(column(user)).agg(F.transform(in_order, lambda ranked: ranked["entry"]).alias(NESTED))
