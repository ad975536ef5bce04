"""Collects the data of the report from a run's tables.

Only small aggregates come to the driver, never all users or all items. Ids are converted to text and shortened.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, DataType

from mfspark.ml.model import ALSModel
from mfspark.tables.columns import column, require_columns

logger = logging.getLogger(__name__)

_MOST_VALUES = 50  # with more distinct ratings than this, a bar stands for a range
_N_BINS = 30
_N_USERS, _N_ITEMS = 4, 5
# Users with at least this many ratings are preferred as samples, because fewer ratings say little about a user.
_ENOUGH_RATINGS = 5
_MAP_SIZE = 1000
_MATRIX_SIZE = 12
_TEXT_LENGTH = 64
"""Ids and names with more characters are shortened."""


class Bins(NamedTuple):
    """A histogram."""

    labels: list[str]
    counts: list[int]


class ScoredItem(NamedTuple):
    """An item with a user's rating or the model's score."""

    item: str
    score: float | None
    """None: a popular item that fills up a list."""


class SampleUser(NamedTuple):
    """A user's best rated items and recommendations."""

    user: str
    n_ratings: int
    top_rated: list[ScoredItem]
    recommended: list[ScoredItem]


class ItemMap(NamedTuple):
    """The most rated items on the first two principal components of their factors."""

    items: list[str]
    n_ratings: list[int]
    places: NDArray[np.float64]
    """float64[n_items, 2], coordinates on the two leading principal components."""
    shares: tuple[float, float]
    """Share of the variance along each component."""


class Matrix(NamedTuple):
    """All ratings of a small run, and the predictions for all pairs."""

    users: list[str]
    items: list[str]
    ratings: list[list[float | None]]
    """n_users × n_items; None if there is no rating."""
    predictions: list[list[float]]


@dataclass(frozen=True)
class Collected:
    """The parts of the tables that the report shows."""

    ratings: Bins
    ratings_by_user: Bins
    """Number of users by number of ratings."""
    ratings_by_item: Bins
    samples: list[SampleUser]
    item_map: ItemMap | None
    """None if there are fewer than three items."""
    matrix: Matrix | None
    """None if the run is not small."""


def collect(ratings: DataFrame, model: ALSModel, recommendations: DataFrame) -> Collected:
    """Collect the parts of a run's tables that the report shows.

    Parameters
    ----------
    ratings : user_id, item_id, rating
    recommendations : user_id, recommendations array<struct<item_id, score>>

    Cost: six aggregations of the ratings. Runs on the driver.
    """
    of_users, of_items = degree_bins(ratings, "user_id"), degree_bins(ratings, "item_id")
    is_small = max(sum(of_users.counts), sum(of_items.counts)) <= _MATRIX_SIZE
    return Collected(
        rating_bins(ratings),
        of_users,
        of_items,
        sample_users(ratings, recommendations),
        item_map(ratings, model),
        rating_matrix(ratings, model) if is_small else None,
    )


def with_item_names(tables: Collected, names: DataFrame, columns: tuple[str, str]) -> Collected:
    """Replace the ids of items by their names. Items without a name, or with a shortened id, keep their id.

    columns : the column of the ids and the column of the names

    Raises
    ------
    SchemaError    a column is missing

    Cost: one scan of the names. Runs on the driver.
    """
    require_columns(names, list(columns))
    shown = {entry.item for user in tables.samples for entry in user.top_rated + user.recommended}
    shown |= set(tables.item_map.items if tables.item_map else ()) | set(tables.matrix.items if tables.matrix else ())
    id_text, name = (_as_text(column(key), names.schema[key].dataType) for key in columns)
    rows = (
        names.select(id_text.alias("id"), name.alias("name"))
        .where(F.col("id").isin([item for item in shown if len(item) < _TEXT_LENGTH]) & F.col("name").isNotNull())
        .groupBy("id")
        .agg(F.min("name").alias("name"))
        .collect()
    )
    found = {row["id"]: row["name"] for row in rows}
    if shown and not found:
        logger.warning(
            "report.html shows ids: column '%s' of report.item_names has none of the %d items in the report, such as "
            "'%s'",
            columns[0], len(shown), min(shown),
        )  # fmt: skip

    def named(items: list[str]) -> list[str]:
        return [found.get(item, item) for item in items]

    def entries(scored: list[ScoredItem]) -> list[ScoredItem]:
        return [ScoredItem(found.get(entry.item, entry.item), entry.score) for entry in scored]

    return replace(
        tables,
        samples=[
            user._replace(top_rated=entries(user.top_rated), recommended=entries(user.recommended))
            for user in tables.samples
        ],
        item_map=tables.item_map and tables.item_map._replace(items=named(tables.item_map.items)),
        matrix=tables.matrix and tables.matrix._replace(items=named(tables.matrix.items)),
    )


def rating_bins(ratings: DataFrame) -> Bins:
    """Number of ratings with each value, or in ranges of equal width if there are more than _MOST_VALUES values."""
    by_value = ratings.groupBy("rating").count().orderBy("rating").limit(_MOST_VALUES + 1).collect()
    if len(by_value) <= _MOST_VALUES:
        return Bins([f"{row['rating']:g}" for row in by_value], [row["count"] for row in by_value])
    (low, high) = ratings.agg(F.min("rating"), F.max("rating")).collect()[0]
    width = (high - low) / _N_BINS
    number = F.least(F.floor((F.col("rating").cast("double") - low) / width), F.lit(_N_BINS - 1))
    counts = {row["bin"]: row["count"] for row in ratings.groupBy(number.alias("bin")).count().collect()}
    labels = [f"{low + place * width:.4g} to {low + (place + 1) * width:.4g}" for place in range(_N_BINS)]
    return Bins(labels, [counts.get(place, 0) for place in range(_N_BINS)])


def degree_bins(ratings: DataFrame, id_column: str) -> Bins:
    """Number of ids with 1, 2 to 3, 4 to 7, … ratings."""
    # Counts binary digits, because log2 of a float64 may be wrong at a power of two.
    doublings = F.length(F.bin("count")) - 1
    found = ratings.groupBy(id_column).count().groupBy(doublings.alias("doublings")).count().collect()
    counts = {row["doublings"]: row["count"] for row in found}
    places = range(max(counts, default=-1) + 1)
    labels = ["1" if place == 0 else f"{2**place:,} to {2 ** (place + 1) - 1:,}" for place in places]
    return Bins(labels, [counts.get(place, 0) for place in places])


def sample_users(ratings: DataFrame, recommendations: DataFrame) -> list[SampleUser]:
    """Some users with their best rated items and their recommendations.

    Takes the first users by a hash of the id, if possible of those with at least _ENOUGH_RATINGS ratings. So the
    reports of runs over the same ratings show the same users.
    """
    counted = ratings.groupBy("user_id").agg(F.count("*").alias("n"))
    chosen = counted.orderBy(
        F.least("n", F.lit(_ENOUGH_RATINGS)).desc(), F.xxhash64("user_id"), F.col("user_id")
    ).limit(_N_USERS)
    best_first = F.sort_array(F.collect_list(F.struct((-F.col("rating")).alias("order"), "item_id")))
    rated = (
        ratings.join(F.broadcast(chosen), on="user_id", how="inner")
        .groupBy("user_id", "n")
        .agg(F.slice(best_first, 1, _N_ITEMS).alias("rated"))
    )
    user_type, item_type = ratings.schema["user_id"].dataType, ratings.schema["item_id"].dataType
    rows = (
        rated.join(recommendations, on="user_id", how="left")
        .orderBy(F.col("n").desc(), "user_id")
        .select(
            _as_text(F.col("user_id"), user_type).alias("user"),
            "n",
            _items_as_text("rated", item_type, lambda entry: -entry["order"]).alias("rated"),
            _items_as_text(F.slice("recommendations", 1, _N_ITEMS), item_type, lambda entry: entry["score"]).alias(
                "best"
            ),
        )
        .collect()
    )
    return [
        SampleUser(
            row["user"], row["n"], [ScoredItem(*e) for e in row["rated"]], [ScoredItem(*e) for e in row["best"] or []]
        )
        for row in rows
    ]


def item_map(ratings: DataFrame, model: ALSModel) -> ItemMap | None:
    """Coordinates of the most rated items; None for fewer than three.

    Cost: at most _MAP_SIZE·rank·4 bytes come to the driver.
    """
    counted = ratings.groupBy("item_id").agg(F.count("*").alias("n"))
    factors = model.itemFactors.select("id", "features")
    item_type = ratings.schema["item_id"].dataType
    table = (
        factors.join(counted, on=factors["id"] == counted["item_id"], how="inner")
        .orderBy(F.col("n").desc(), "id")
        .limit(_MAP_SIZE)
        .select(_as_text(F.col("id"), item_type).alias("item"), "n", "features")
        .toArrow()
    )
    if table.num_rows < 3:
        return None
    features = table["features"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    places, shares = principal_components(features)
    return ItemMap(table["item"].to_pylist(), table["n"].to_pylist(), places, shares)


def principal_components(rows: NDArray[Any]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Coordinates of rows along the two directions with the most variance, and the share of variance of each.

    The sign of each direction is chosen so that the row farthest from the mean has a positive coordinate.

    rows : float[n, k]
    """
    centred = np.asarray(rows, np.float64) - rows.mean(axis=0, dtype=np.float64)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(rows), 2))
    n_directions = min(2, len(lengths))
    places[:, :n_directions] = (left * lengths)[:, :n_directions]
    farthest = places[np.abs(places).argmax(axis=0), [0, 1]]
    places *= np.where(farthest < 0, -1.0, 1.0)
    variances = np.square(np.append(lengths, 0.0))
    total = variances.sum() or 1.0
    return places, (float(variances[0] / total), float(variances[1] / total))


def rating_matrix(ratings: DataFrame, model: ALSModel) -> Matrix:
    """The rating (the mean, if a pair has several) and the prediction of every pair; for small runs only."""
    users, items = (
        factors.select(F.col("id").alias(name))
        for factors, name in ((model.userFactors, "user_id"), (model.itemFactors, "item_id"))
    )
    means = ratings.groupBy("user_id", "item_id").agg(F.avg("rating").alias("rating"))
    cells = (
        model.transform(users.crossJoin(items))
        .join(means, on=["user_id", "item_id"], how="left")
        .orderBy("user_id", "item_id")
        .select(
            _as_text(F.col("user_id"), ratings.schema["user_id"].dataType).alias("user"),
            _as_text(F.col("item_id"), ratings.schema["item_id"].dataType).alias("item"),
            "rating",
            "prediction",
        )
        .collect()
    )
    n_items = items.count()
    rows = [cells[start : start + n_items] for start in range(0, len(cells), n_items)]
    return Matrix(
        [row[0]["user"] for row in rows],
        [cell["item"] for cell in rows[0]],
        [[cell["rating"] for cell in row] for row in rows],
        [[cell["prediction"] for cell in row] for row in rows],
    )


def _as_text(value: Column, data_type: DataType) -> Column:
    """An id as text of at most _TEXT_LENGTH characters, without bytes that are not UTF-8."""
    text = F.hex(value) if isinstance(data_type, BinaryType) else F.make_valid_utf8(value.cast("string"))
    shortened = F.concat(F.substring(text, 1, _TEXT_LENGTH - 1), F.lit("…"))
    return F.when(F.length(text) > _TEXT_LENGTH, shortened).otherwise(text)


def _items_as_text(entries: Any, item_type: DataType, score: Any) -> Column:
    return F.transform(
        entries,
        lambda entry: F.struct(_as_text(entry["item_id"], item_type).alias("item"), score(entry).alias("score")),
    )
