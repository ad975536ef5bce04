"""Lists for users that the model has no list for, or too short a one."""

from functools import partial

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.serving.recommend import recommend_popular


def filled_with_popular(
    lists: DataFrame, users: DataFrame, counted: DataFrame, n: int, seen: DataFrame | None
) -> DataFrame:
    """Lists of n entries for all users: their own entries, then the most popular items that are not among these.

    Parameters
    ----------
    lists : user_id, recommendations array<struct<item_id, rating>>; read twice
    users : user_id; distinct
    counted : id, count
    seen : user_id, item_id; pairs to leave out

    Returns
    -------
    DataFrame    user_id, recommendations array<struct<item_id, rating, is_fallback boolean>>; the rating of a popular
                 item is null, because there is no prediction. A list is shorter than n only if nothing is left.

    Cost: one join by user, and `recommend_popular` for the users whose lists are short.
    """
    own = lists.select("user_id", F.transform("recommendations", partial(_entry, "item_id", False)).alias("own"))
    everyone = users.join(own, "user_id", "left")
    short = everyone.where(F.col("own").isNull() | (F.size("own") < n)).select(F.col("user_id").alias("id"))
    left_out = None if seen is None else seen.select(F.col("user_id").alias("id"), "item_id")
    popular = recommend_popular(short, counted, n, left_out).select(
        F.col("id").alias("user_id"), F.transform("recommendations", partial(_entry, "id", True)).alias("popular")
    )
    nothing = F.array().cast(popular.schema["popular"].dataType)
    own_list, others = (F.coalesce(name, nothing) for name in ("own", "popular"))
    own_items = F.transform(own_list, lambda entry: entry["item_id"])
    further = F.filter(others, lambda entry: ~F.array_contains(own_items, entry["item_id"]))
    filled = F.slice(F.concat(own_list, further), 1, n).alias("recommendations")
    return everyone.join(popular, "user_id", "left").select("user_id", filled)


def _entry(item: str, is_fallback: bool, entry: Column) -> Column:
    return F.struct(
        entry[item].alias("item_id"), entry["rating"].alias("rating"), F.lit(is_fallback).alias("is_fallback")
    )


def count_lists(lists: DataFrame, n: int, n_users: int) -> dict[str, int]:
    """Users by kind of list: `full` of the model's own entries, `short`, filled by the `fallback`, `empty`.

    lists : recommendations array<struct>, with is_fallback if there is a fallback
    n_users : all known users; those without a row have an empty list

    Cost: one scan of the lists.
    """
    entry_fields = lists.schema["recommendations"].dataType.elementType.fieldNames()  # type: ignore[attr-defined]
    has_popular = F.lit(False)
    if "is_fallback" in entry_fields:
        has_popular = F.exists("recommendations", lambda entry: entry["is_fallback"])
    size = F.size("recommendations")
    found = lists.agg(
        F.count_if(~has_popular & (size >= n)).alias("full"),
        F.count_if(~has_popular & (size > 0) & (size < n)).alias("short"),
        F.count_if(has_popular).alias("fallback"),
    ).first()
    counts: dict[str, int] = found.asDict() if found else {}
    return counts | {"empty": n_users - sum(counts.values())}
