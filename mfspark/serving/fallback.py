"""Fills missing and short lists of recommendations with popular items."""

from functools import partial

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.serving.recommend import recommend_popular


def filled_with_popular(
    lists: DataFrame, users: DataFrame, counted: DataFrame, n: int, seen: DataFrame | None
) -> DataFrame:
    """Append popular items to the model's lists until each user has n entries.

    Parameters
    ----------
    lists : user_id, recommendations array<struct<item_id, rating>>; read twice
    users : user_id; distinct
    counted : id, count
    seen : user_id, item_id; pairs to leave out

    Returns
    -------
    DataFrame    user_id, recommendations array<struct<item_id, rating, is_fallback boolean>>; a row for each user. The
                 rating of a popular item is null, because there is no prediction. A list has fewer than n entries only
                 if there are no other items that may be recommended.

    Cost: one join by user, and `recommend_popular` for the users with short lists.
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
    """Count the users with each kind of list.

    `full` lists have n entries of the model, `short` ones have fewer, `fallback` ones have popular items, and `empty`
    ones have no entry.

    lists : recommendations array<struct>, with is_fallback if there is a fallback
    n_users : number of all users; a user without a row in lists counts as empty

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
