"""Evaluate predictions and recommendations on ratings that training never saw."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import chain

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.engine.session import count_cores
from mfspark.tables.columns import column
from mfspark.tables.lists import nested

Metrics = dict[str, float | int | None]
"""Values by name."""

_RECOMMENDER = "__mfspark_recommender"


def rating_metrics(predictions: DataFrame, names: Sequence[str] = ("prediction",)) -> list[Metrics]:
    """Error of predicted ratings.

    Parameters
    ----------
    predictions : rating, and columns of predictions, NaN for an unknown user or item
    names : prediction columns to evaluate, all on the pairs for which the first one has a prediction

    Returns
    -------
    For each name: n_pairs, n_unknown (pairs without a prediction), and over the others rmse and mae, None if there
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
    relevant : id, items array<item id>, the relevant items, each once
    k : number of recommendations to evaluate

    Returns
    -------
    n_users, and the metrics of Spark's RankingMetrics with binary relevance, None if there are no such users:

    ndcg_at_k         Σ 1/log2(1 + place) over the hits, divided by that of the best possible list
    precision_at_k    hits / k, even if fewer items are relevant
    recall_at_k       hits / number of relevant items
    map_at_k          mean over the relevant items, at most k, of the precision at the place of each; 0 if not found
    hit_rate_at_k     share of the users with a hit

    Cost: one join, one aggregation.
    """
    return _ranking_metrics(_first({"": recommendations}, k), [""], relevant, k)[""]


def catalogue_metrics(recommendations: DataFrame, counted: DataFrame, k: int) -> Metrics:
    """Coverage and novelty of the first k recommendations of all users.

    Parameters
    ----------
    recommendations : as for `ranking_metrics`
    counted : id, count: the items of the catalogue and the number of their training ratings

    Returns
    -------
    coverage_at_k    share of the catalogue that is in at least one list
    novelty_at_k     mean over all recommendations of -log2 p, with p the item's share of the training ratings: bits of
                     self-information (Zhou et al., PNAS 107(10), 2010, there with shares of users); None if no item of
                     the catalogue is recommended

    Cost: an aggregation by item and a join of two item tables.
    """
    return _catalogue_metrics(_first({"": recommendations}, k), [""], counted, k)[""]


def list_metrics(lists: Mapping[str, DataFrame], relevant: DataFrame, counted: DataFrame, k: int) -> dict[str, Metrics]:
    """`ranking_metrics` and `catalogue_metrics` of several recommenders, by name.

    lists : the recommendations of each

    Cost: that of one recommender; the lists are computed once.
    """
    names = list(lists)
    with cached(_first(lists, k)) as first:
        ranking, catalogue = _ranking_metrics(first, names, relevant, k), _catalogue_metrics(first, names, counted, k)
    return {name: ranking[name] | catalogue[name] for name in names}


def _first(lists: Mapping[str, DataFrame], k: int) -> DataFrame:
    """The first k items of every list, and the name of its recommender."""
    named = [
        table.select(F.lit(name).alias(_RECOMMENDER), "id", F.slice("items", 1, k).alias("items"))
        for name, table in lists.items()
    ]
    return reduce(DataFrame.unionByName, named)


def _ranking_metrics(first: DataFrame, names: list[str], relevant: DataFrame, k: int) -> dict[str, Metrics]:
    """`ranking_metrics` of each recommender.

    first : `_first` of the lists of all
    """
    judged = relevant.select("id", F.col("items").alias("relevant")).join(first, on="id", how="inner")
    marks = F.transform("items", lambda item, place: F.when(F.array_contains("relevant", item), place + 1))
    n_relevant = F.size("relevant")
    judged = judged.select(
        _RECOMMENDER,
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
    measures = [F.avg(value).alias(f"{name}_at_{k}") for name, value in of_user.items()]
    rows = judged.groupBy(_RECOMMENDER).agg(F.count("*").alias("n_users"), *measures).collect()
    nothing: Metrics = {"n_users": 0} | dict.fromkeys(f"{name}_at_{k}" for name in of_user)
    found = {row[_RECOMMENDER]: {key: row[key] for key in nothing} for row in rows}
    return {name: found.get(name, nothing) for name in names}


def _catalogue_metrics(first: DataFrame, names: list[str], counted: DataFrame, k: int) -> dict[str, Metrics]:
    """`catalogue_metrics` of each recommender.

    first : `_first` of the lists of all
    """
    entries = first.select(_RECOMMENDER, F.explode("items").alias("id"))
    of_recommender = {f"n_shown_{number}": F.col(_RECOMMENDER) == name for number, name in enumerate(names)}
    shown = entries.groupBy("id").agg(
        *(F.count_if(is_its).alias(n_shown) for n_shown, is_its in of_recommender.items())
    )
    n_ratings = F.sum("count")
    measures = [
        (
            F.count_if(F.col(times) > 0) / F.nullif(F.count("*"), F.lit(0)),
            F.log2(n_ratings) - F.sum(F.col(times) * F.log2("count")) / F.nullif(F.sum(times), F.lit(0)),
        )
        for times in of_recommender
    ]
    (values,) = counted.join(shown, on="id", how="left").agg(*chain(*measures)).collect()
    pairs = zip(values[::2], values[1::2], strict=True)
    return {
        name: {f"coverage_at_{k}": coverage, f"novelty_at_{k}": novelty}
        for name, (coverage, novelty) in zip(names, pairs, strict=True)
    }


@contextmanager
def cached(table: DataFrame) -> Iterator[DataFrame]:
    """The table, computed once and cached until the context ends."""
    # By default, adaptive execution skips cached plans, so each of spark.sql.shuffle.partitions would be a task.
    kept = table.coalesce(count_cores(table.sparkSession)).persist()
    try:
        yield kept
    finally:
        kept.unpersist()


def lists_of(recommendations: DataFrame, user: str, item: str) -> DataFrame:
    """Recommendations in either layout → id, items array, the input of the metrics; as `tables/lists.py`'s `nested`."""
    items = F.transform("recommendations", lambda entry: entry[item])
    return nested(recommendations, user, item).select(column(user).alias("id"), items.alias("items"))


def relevant_items(holdout: DataFrame, *, are_positive_only: bool = False) -> DataFrame:
    """user_id, item_id of relevant pairs → id, items array, each once. Cost: a shuffle.

    are_positive_only : whether to leave out pairs with ratings of 0 or less, for implicit feedback
    """
    pairs = holdout.where(F.col("rating") > 0) if are_positive_only else holdout
    return pairs.groupBy(F.col("user_id").alias("id")).agg(F.collect_set("item_id").alias("items"))


def ranking_pairs(recommendations: DataFrame, relevant: DataFrame) -> DataFrame:
    """The input of Spark's RankingEvaluator: prediction, label, both array<double>, a row for each id in both tables.

    recommendations, relevant : as for `ranking_metrics`

    Each item id becomes its position in the two lists of the row. Only equality within a row matters, so this needs no
    join.
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
