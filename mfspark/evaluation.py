"""Evaluation of any recommender: splits without leaks, metrics and baselines.

DataFrames in, numbers out; it needs no run::

    parts = evaluation.split(ratings, "leave_last", timestamp="at")
    train, holdout = parts.where("part = 'train'"), parts.where("part = 'holdout'")
    lists = ALS().fit(train).recommendForAllUsers(10, seen=train)
    evaluation.ranking_metrics(lists, holdout, 10)  # the model
    evaluation.ranking_metrics(evaluation.popular_lists(train, 10), holdout, 10)  # the popular items
"""

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.config.checking import checked
from mfspark.config.sections import SplitConfig, SplitMethod
from mfspark.errors import ConfigError, SchemaError
from mfspark.serving.recommend import recommend_popular
from mfspark.tables import baselines, evaluate
from mfspark.tables.columns import (
    column,
    is_text,
    require_columns,
    require_fold_column,
    require_id_column,
    require_timestamp_column,
    select_ratings,
)
from mfspark.tables.evaluate import Metrics
from mfspark.tables.split import PART, SplitColumns, assign_parts, require_usable_folds


def split(
    ratings: DataFrame,
    method: SplitMethod = "random",
    *,
    user: str = "user",
    item: str = "item",
    timestamp: str | None = None,
    fold: str | None = None,
    **settings: Any,
) -> DataFrame:
    """Add the column `part`: "train", "validation" or "holdout".

    Parameters
    ----------
    ratings : deterministic, since methods may read it several times; no nulls in the named columns
    method : "random", "random_per_user", "leave_last", "time" or "column", as in `[split] method` of a configuration
    user, item : names of the id columns
    timestamp : name of the column that "leave_last" and "time" order by: numbers, dates or timestamps
    fold : name of the column that "column" reads: integers or strings
    settings : holdout, validation, seed, holdout_items, validation_items, holdout_fold, validation_fold, as in [split]

    Raises
    ------
    ConfigError    a setting is unknown, out of range, or does not belong to the method
    SchemaError    a column is missing or has the wrong type, or a column `part` already exists
    DataError      a named fold has no ratings, a pair is in several folds, or too many ratings have the latest time

    All ratings of one (user, item) go to the same part; partitions and the order of rows do not matter. Cost: see
    `tables/split.py`.
    """
    config = checked(SplitConfig, {"method": method, **settings})
    columns = SplitColumns(user, item, timestamp, fold)
    if config.needs_timestamp and timestamp is None:
        raise ConfigError(f"method '{method}' needs the name of a timestamp column; set timestamp")
    if (method == "column") != (fold is not None):
        raise ConfigError("method 'column' and a fold column go together; set both or neither")
    if PART in {name.lower() for name in ratings.columns}:
        raise SchemaError(f"column '{PART}' already exists; drop it before the split")
    require_columns(ratings, [name for name in (user, item, timestamp, fold) if name is not None])
    require_id_column(ratings, user)
    require_id_column(ratings, item)
    if timestamp is not None:
        require_timestamp_column(ratings, timestamp)
        if is_text(ratings, timestamp):
            raise SchemaError(
                f"timestamp column '{timestamp}' is text, which sorts by letters, not by time; convert it first, such "
                f"as with ratings.withColumn('{timestamp}', F.to_timestamp('{timestamp}'))"
            )
    if fold is not None:
        require_fold_column(ratings, fold)
    require_usable_folds(ratings, config, columns)
    return assign_parts(ratings, config, columns)


def rating_metrics(predictions: DataFrame, rating: str = "rating", prediction: str = "prediction") -> Metrics:
    """Error of predicted ratings.

    predictions : numeric columns with these names; NaN for a missing prediction

    Returns
    -------
    n_pairs, n_unknown (pairs without a prediction), and over the others rmse and mae, None if there are none.
    Cost: one aggregation.
    """
    require_columns(predictions, [rating, prediction])
    selected = predictions.select(column(rating).alias("rating"), column(prediction).alias("prediction"))
    (metrics,) = evaluate.rating_metrics(selected)
    return metrics


def ranking_metrics(
    recommendations: DataFrame, relevant: DataFrame, k: int, *, user: str = "user", item: str = "item"
) -> Metrics:
    """Quality of the first k recommendations, averaged over the users who have both a list and relevant items.

    Parameters
    ----------
    recommendations : user, recommendations array<struct<item, ...>> best first, from `recommendForAllUsers`, or a
        published table in either layout; without seen items if the relevant items are held out of the same ratings
    relevant : user, item of the relevant pairs
    k : number of recommendations to evaluate, at least 1

    Returns
    -------
    n_users, ndcg_at_k, precision_at_k, recall_at_k, map_at_k, hit_rate_at_k, with the formulas of Spark's
    RankingMetrics (see `tables/evaluate.py`). None if there are no such users. Cost: two shuffles, one aggregation.
    """
    _require_positive(k)
    require_columns(relevant, [user, item])
    pairs = relevant.select(column(user).alias("user_id"), column(item).alias("item_id"))
    return evaluate.ranking_metrics(evaluate.lists_of(recommendations, user, item), evaluate.relevant_items(pairs), k)


def catalogue_metrics(
    recommendations: DataFrame, train: DataFrame, k: int, *, user: str = "user", item: str = "item"
) -> Metrics:
    """Coverage and novelty of the first k recommendations of all users.

    recommendations : as for `ranking_metrics`
    train : item of each training rating; these items are the catalogue

    Returns
    -------
    coverage_at_k    share of the catalogue that is in at least one list
    novelty_at_k     mean of -log2 of an item's share of the training ratings, in bits

    Cost: two aggregations by item and a join of their results.
    """
    _require_positive(k)
    require_columns(train, [item])
    counted = baselines.count_ratings(train, item)
    return evaluate.catalogue_metrics(evaluate.lists_of(recommendations, user, item), counted, k)


def popular_lists(
    train: DataFrame, n: int, *, user: str = "user", item: str = "item", users: DataFrame | None = None
) -> DataFrame:
    """The n items with the most training ratings for each user, without items that the user rated in training.

    users : a table with the user column; None: the users of the training ratings

    Returns
    -------
    DataFrame    user, recommendations array<struct<item, rating float>>, most popular first, then in ascending order of
                 the id; the ratings are null. Cost: see `serving/recommend.py`
    """
    _require_positive(n)
    require_columns(train, [user, item])
    seen = train.select(column(user).alias("id"), column(item).alias("item_id"))
    served = (train if users is None else users).select(column(user).alias("id")).distinct()
    best = recommend_popular(served, baselines.count_ratings(seen), n, seen)
    entries = F.transform("recommendations", lambda entry: F.struct(entry["id"].alias(item), entry["rating"]))
    return best.select(F.col("id").alias(user), entries.alias("recommendations"))


def mean_and_biases(
    train: DataFrame, pairs: DataFrame, *, user: str = "user", item: str = "item", rating: str = "rating"
) -> DataFrame:
    """Predict pairs by the global mean and the shrunk biases of user and item; see `tables/baselines.py`.

    train : user, item, rating of the training ratings
    pairs : user, item, any other columns but prediction

    Returns
    -------
    DataFrame    the pairs, with a column prediction double; an unknown user or item has no bias
    """
    require_columns(pairs, [user, item])
    ratings = select_ratings(train, user, item, rating, None)
    return baselines.add_mean_and_biases(pairs, ratings, "prediction", user, item)


def _require_positive(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k must be at least 1, found {k}")
