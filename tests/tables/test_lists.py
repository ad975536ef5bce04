"""The layouts of recommendations."""

import pytest
from pyspark.sql.types import IntegerType, LongType

from mfspark.errors import DataError, SchemaError
from mfspark.tables.lists import ListWriter, columns_of_items, nested

pytestmark = pytest.mark.spark

USER, ITEM = "the `user`", "an.item"
SCHEMA = "user_id int, recommendations array<struct<item_id int, rating float, is_fallback boolean>>"
LISTS = [(1, [(9, 4.0, False), (7, 3.5, False), (8, None, True)]), (2, []), (3, [(7, 1.0, False)])]
ABOUT = [("7", "seven", {"a": 1}), ("8", None, None), ("x", "no number", None), (None, "null", None)]


@pytest.fixture
def lists(spark):
    return spark.createDataFrame(LISTS, SCHEMA)


@pytest.fixture
def items(spark):
    table = spark.createDataFrame(ABOUT, "`item.key` string, title string, more map<string, int>")
    return columns_of_items(table, "item.key", ["title", "more"], IntegerType(), "recommend.items")


def rows(table):
    return sorted(tuple(row) for row in table.collect())


def test_flat_recommendations_have_a_row_each(lists, items):
    writer = ListWriter(USER, ITEM, "flat", "r@2")
    table = writer.table(lists, "user_id", "item_id")
    assert table.schema.simpleString() == (
        "struct<the `user`:int,an.item:int,rank:int,score:float,is_fallback:boolean,run_id:string>"
    )
    assert rows(table) == [
        (1, 7, 2, 3.5, False, "r@2"), (1, 8, 3, None, True, "r@2"), (1, 9, 1, 4.0, False, "r@2"),
        (3, 7, 1, 1.0, False, "r@2"),
    ]  # fmt: skip
    writer = ListWriter(USER, ITEM, "flat", "r@2", items)
    assert rows(writer.table(lists, "user_id", "item_id").drop("more")) == [
        (1, 7, 2, 3.5, False, "seven", "r@2"), (1, 8, 3, None, True, None, "r@2"),
        (1, 9, 1, 4.0, False, None, "r@2"), (3, 7, 1, 1.0, False, "seven", "r@2"),
    ]  # fmt: skip


def entries(table):
    return {row[0]: [tuple(entry) for entry in row[1]] for row in table.collect()}


@pytest.mark.parametrize("has_columns", [False, True])
def test_nested_recommendations_keep_order_and_empty_lists(lists, items, has_columns):
    writer = ListWriter(USER, ITEM, "nested", "r", items if has_columns else None)
    seven = ("seven", {"a": 1}) if has_columns else ()
    nothing = (None, None) if has_columns else ()
    table = writer.table(lists, "user_id", "item_id")
    assert table.columns == [USER, "recommendations"]
    assert entries(table) == {
        1: [(9, 4.0, False, *nothing), (7, 3.5, False, *seven), (8, None, True, *nothing)],
        2: [],
        3: [(7, 1.0, False, *seven)],
    }


def test_either_layout_is_read_as_nested(lists, items):
    written = {
        layout: ListWriter(USER, ITEM, layout, "r", items).table(lists, "user_id", "item_id")
        for layout in ("nested", "flat")
    }
    flat, other = (nested(written[layout], USER, ITEM) for layout in ("flat", "nested"))
    assert flat.schema.simpleString() == other.schema.simpleString()
    assert entries(flat) | {2: []} == entries(other)


def test_what_is_no_table_of_recommendations_is_refused(lists):
    with pytest.raises(SchemaError, match="column 'recommendations' is missing"):
        nested(lists.select("user_id"), "user_id", "item_id")
    with pytest.raises(SchemaError, match="column 'who' is missing"):
        nested(lists, "who", "item_id")


def test_items_that_cannot_be_joined_are_refused(spark):
    table = spark.createDataFrame([("1", "one"), ("01", "also one"), ("2", "two")], "id string, title string")
    with pytest.raises(SchemaError, match="column 'titel' is missing; did you mean 'title'"):
        columns_of_items(table, "id", ["titel"], LongType(), "recommend.items")
    with pytest.raises(DataError, match=r"column 'id' of recommend\.items has the item 1 in 2 rows; expected one row"):
        columns_of_items(table, "id", ["title"], LongType(), "recommend.items")
    # As texts they are different.
    assert columns_of_items(table, "id", ["title"], table.schema["id"].dataType, "recommend.items").count() == 3
