"""Lists that the model cannot fill."""

import pytest

from mfspark.serving.fallback import count_lists, filled_with_popular

pytestmark = pytest.mark.spark

LISTS = "user_id int, recommendations array<struct<item_id: string, rating: float>>"


@pytest.fixture
def lists(spark):
    # Of three places: 1 has all, 2 has one, 3 has an empty list, 4 and 5 have none.
    rows = [(1, [("a", 3.0), ("b", 2.0), ("c", 1.0)]), (2, [("c", 5.0)]), (3, [])]
    return spark.createDataFrame(rows, LISTS)


def filled(spark, lists, seen):
    users = spark.createDataFrame([(user,) for user in range(1, 6)], "user_id int")
    counted = spark.createDataFrame([("a", 9), ("b", 7), ("c", 5), ("d", 3), ("e", 1)], "id string, count bigint")
    table = filled_with_popular(lists, users, counted, 3, seen)
    return table, {row.user_id: [tuple(entry) for entry in row.recommendations] for row in table.collect()}


def test_users_without_a_full_list_get_the_most_popular_items(spark, lists):
    _, found = filled(spark, lists, None)
    popular = [("a", None, True), ("b", None, True), ("c", None, True)]
    assert found == {
        1: [("a", 3.0, False), ("b", 2.0, False), ("c", 1.0, False)],
        2: [("c", 5.0, False), ("a", None, True), ("b", None, True)],
        3: popular, 4: popular, 5: popular,
    }  # fmt: skip


def test_no_popular_item_has_been_seen(spark, lists):
    seen = spark.createDataFrame(
        [(2, "a"), (4, "a"), (4, "c"), *((5, item) for item in "abcde")], "user_id int, item_id string"
    )
    table, found = filled(spark, lists, seen)
    assert [entry[0] for entry in found[2]] == ["c", "b", "d"]
    assert [entry[0] for entry in found[4]] == ["b", "d", "e"]
    assert found[5] == []  # nothing is left
    assert count_lists(table, 3, 5) == {"full": 1, "short": 0, "fallback": 3, "empty": 1}


def test_lists_are_counted_by_kind(lists):
    assert count_lists(lists, 3, 5) == {"full": 1, "short": 1, "fallback": 0, "empty": 3}
    assert count_lists(lists, 1, 5) == {"full": 2, "short": 0, "fallback": 0, "empty": 3}
