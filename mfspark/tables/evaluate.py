"""Evaluate: how well predictions and recommendations meet ratings that training never saw."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.tables.columns import column

Metrics = dict[str, float | int | None]
"""Values by name."""


def rating_metrics(predictions: DataFrame, names: Sequence[str] = ("prediction",)) -> list[Metrics]:
    """Error of predicted ratings.

    Parameters
    ----------
    predictions : rating, and columns of predictions, NaN where a user or item is unknown to the model
    names : of the columns that are judged, all of them by the pairs that the first one has a prediction for

    Returns
    -------
    For each name: n_pairs, n_unknown (pairs without a prediction), and over the others rmse and mae, None where there
    are none. Cost: one aggregation.
    """
    is_known = ~F.isnan(column(names[0]))
    errors = [F.when(is_known, column(name).cast("double") - F.col("rating")) for name in names]
    measures = [(F.sqrt(F.avg(error * error)), F.avg(F.abs(error))) for error in errors]
    found = predictions.agg(F.count("*"), F.count_if(~is_known), *chain(*measures)).first()
    n_pairs, n_unknown, *values = found or (0, 0)
    counts: Metrics = {"n_pairs": n_pairs, "n_unknown": n_unknown}
    return [counts | {"rmse": rmse, "mae": mae} for rmse, mae in zip(values[::2], values[1::2], strict=True)]


def ranking_metrics(recommendations: DataFrame, relevant: DataFrame, k: int) -> Metrics:
    """Quality of the first k recommendations, averaged over the users who have both a list and relevant items.

    Parameters
    ----------
    recommendations : id, items array<item id>, best first, each once
    relevant : id, items array<item id>, the items that should have been found, each once
    k : length of the list that is judged

    Returns
    -------
    n_users, and with binary relevance, as Spark's RankingMetrics defines them, None where there are no such users:

    ndcg_at_k         Σ 1/log2(1 + place) over the hits, by that of the best list there is
    precision_at_k    hits / k, even where fewer items are relevant
    recall_at_k       hits / number of relevant items
    map_at_k          mean over the relevant items, at most k, of the precision at the place of each; 0 where not found
    hit_rate_at_k     share of the users with a hit

    Cost: one join, one aggregation.
    """
    judged = relevant.select("id", F.col("items").alias("relevant")).join(
        recommendations.select("id", F.slice("items", 1, k).alias("best")), on="id", how="inner"
    )
    marks = F.transform("best", lambda item, place: F.when(F.array_contains("relevant", item), place + 1))
    n_relevant = F.size("relevant")
    judged = judged.select(
        F.filter(marks, lambda mark: mark.isNotNull()).alias("hits"),
        n_relevant.alias("n_relevant"),
        F.least(n_relevant, F.lit(k)).alias("n_findable"),
    )
    n_hits = F.size("hits")
    best_gain = _sum(F.sequence(F.lit(1), F.col("n_findable")), _gain)
    precisions = F.transform("hits", lambda mark, number: (number + 1) / mark)
    of_user = {
        "ndcg": _sum(F.col("hits"), _gain) / best_gain,
        "precision": n_hits / k,
        "recall": n_hits / F.col("n_relevant"),
        "map": _sum(precisions, lambda precision: precision) / F.col("n_findable"),
        "hit_rate": (n_hits > 0).cast("double"),
    }
    found = judged.agg(
        F.count("*").alias("n_users"), *(F.avg(value).alias(f"{name}_at_{k}") for name, value in of_user.items())
    ).first()
    return found.asDict() if found else {}


def catalogue_metrics(recommendations: DataFrame, counted: DataFrame, k: int) -> Metrics:
    """How much of the catalogue the first k recommendations of all users show, and how little known that is.

    Parameters
    ----------
    recommendations : as for `ranking_metrics`
    counted : id, count: the items of the catalogue and the number of their training ratings

    Returns
    -------
    coverage_at_k    share of the catalogue that is in at least one list
    novelty_at_k     mean over all recommendations of -log2 p, p the share of the training ratings that are of the item:
                     bits of self-information (Zhou et al., PNAS 107(10), 2010, there with shares of users)

    None where no item of the catalogue is recommended. Cost: an aggregation by item, and a join of two tables of items.
    """
    entries = recommendations.select(F.explode(F.slice("items", 1, k)).alias("id"))
    shown = entries.groupBy("id").agg(F.count("*").alias("n_shown"))
    times = F.col("n_shown")
    n_ratings = F.sum("count")
    found = (
        counted.join(shown, on="id", how="left")
        .agg(
            (F.count(times) / F.nullif(F.count("*"), F.lit(0))).alias(f"coverage_at_{k}"),
            (F.log2(n_ratings) - F.sum(times * F.log2("count")) / F.sum(times)).alias(f"novelty_at_{k}"),
        )
        .first()
    )
    return found.asDict() if found else {}


def list_metrics(recommendations: DataFrame, relevant: DataFrame, counted: DataFrame, k: int) -> Metrics:
    """`ranking_metrics` and `catalogue_metrics` of the same lists."""
    return ranking_metrics(recommendations, relevant, k) | catalogue_metrics(recommendations, counted, k)


@contextmanager
def cached(table: DataFrame) -> Iterator[DataFrame]:
    """The table, computed once, until the end."""
    # Adaptive execution leaves cached plans alone: without this, a task for each of spark.sql.shuffle.partitions.
    kept = table.coalesce(table.sparkSession.sparkContext.defaultParallelism).persist()
    try:
        yield kept
    finally:
        kept.unpersist()


def lists_of(recommendations: DataFrame, user: str, item: str) -> DataFrame:
    """user, recommendations array<struct<item, …>> → id, items array, as the metrics ask for."""
    items = F.transform("recommendations", lambda entry: entry[item])
    return recommendations.select(column(user).alias("id"), items.alias("items"))


def relevant_items(holdout: DataFrame, *, are_positive_only: bool = False) -> DataFrame:
    """user_id, item_id of pairs that should be found → id, items array, each once. Cost: a shuffle.

    are_positive_only : whether pairs whose rating is not above 0 are left out, as of implicit feedback
    """
    pairs = holdout.where(F.col("rating") > 0) if are_positive_only else holdout
    return pairs.groupBy(F.col("user_id").alias("id")).agg(F.collect_set("item_id").alias("items"))


def ranking_pairs(recommendations: DataFrame, relevant: DataFrame) -> DataFrame:
    """The input of Spark's RankingEvaluator: prediction, label, both array<double>, a row for each id in both tables.

    recommendations, relevant : as for `ranking_metrics`

    Item ids of any type become the item's place among both lists: only equality within one row matters, so that needs
    no join.
    """
    judged = relevant.select("id", F.col("items").alias("relevant")).join(
        recommendations.select("id", F.col("items").alias("recommended")), on="id", how="inner"
    )
    known = F.array_union("recommended", "relevant")

    def place(item: Column) -> Column:
        return F.array_position(known, item).cast("double")

    return judged.select(
        F.transform("recommended", place).alias("prediction"), F.transform("relevant", place).alias("label")
    )


def _gain(place: Column) -> Column:
    return 1 / F.log2(place + 1)


def _sum(values: Column, term: Callable[[Column], Column]) -> Column:
    return F.aggregate(values, F.lit(0.0), lambda total, value: total + term(value))
