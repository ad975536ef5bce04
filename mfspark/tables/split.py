"""Split the ratings into training, validation (after each iteration) and holdout (after training)."""

from itertools import accumulate, chain
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mfspark.config.sections import SplitConfig
from mfspark.errors import DataError
from mfspark.tables.columns import column

PART = "part"
"""Name of the added column."""

PARTS = ("train", "validation", "holdout")
"""Values of the column `part`."""

_BUCKETS = 1_000_000
_MOMENT, _PLACE, _RANGE = "__mfspark_moment", "__mfspark_place", "__mfspark_range"
_EXAMPLES_IN_MESSAGE = 5


class SplitColumns(NamedTuple):
    """Names of the columns that a split reads."""

    user: str
    item: str
    timestamp: str | None = None
    fold: str | None = None


def assign_parts(ratings: DataFrame, config: SplitConfig, columns: SplitColumns) -> DataFrame:
    """Add the column `part` to ratings, by the method of the configuration.

    The parts do not depend on partitions. All ratings of one (user, item) go to the same part; methods that use the
    time take the latest of them.

    Parameters
    ----------
    ratings : the columns that `columns` names; timestamp and fold only for methods that need them
    columns : names of the columns

    Raises
    ------
    DataError    `time`: so many ratings have the latest timestamp that the holdout or validation would be too large

    Cost: `random`, `column`: none. `random_per_user`, `leave_last`: a shuffle by user and two sorts. `time`: a shuffle
    by pair and, at once, two jobs over the counts of the timestamps.
    """
    if config.method == "random":
        return ratings.withColumn(PART, _random_part(config, columns))
    if config.method == "column":
        return ratings.withColumn(PART, _given_part(config, columns))
    if config.method == "random_per_user":
        return _split_users(ratings, config, columns, [])
    moment = F.max(column(str(columns.timestamp))).over(Window.partitionBy(column(columns.user), column(columns.item)))
    timed = ratings.withColumn(_MOMENT, moment)
    split = _split_users(timed, config, columns, [_MOMENT]) if config.method == "leave_last" else _cut(timed, config)
    return split.drop(_MOMENT)


def require_usable_folds(ratings: DataFrame, config: SplitConfig, columns: SplitColumns) -> None:
    """Raise DataError if a configured fold has no ratings, or a (user, item) is in two folds.

    Checks only the method `column`. Cost: two aggregations.
    """
    if config.method != "column" or columns.fold is None:
        return
    fold = column(columns.fold).cast("string")
    wanted = [str(name) for name in (config.holdout_fold, config.validation_fold) if name is not None]
    found = {row[0] for row in ratings.where(fold.isin(wanted)).select(fold).distinct().collect()}
    for name in wanted:
        if name not in found:
            others = sorted(row[0] for row in ratings.select(fold).distinct().limit(_EXAMPLES_IN_MESSAGE).collect())
            raise DataError(
                f"no rating is in fold '{name}'; found folds {', '.join(others)}, …; correct the name or the input"
            )
    # As text: Python has no object for a date beyond its year 9999.
    pair = [column(name).cast("string") for name in (columns.user, columns.item)]
    folds = ratings.groupBy(column(columns.user), column(columns.item)).agg(
        F.min(fold).alias("a"), F.max(fold).alias("b")
    )
    torn = folds.where("a != b").select(*pair, "a", "b").first()
    if torn is not None:
        raise DataError(
            f"user {torn[0]} and item {torn[1]} have ratings in folds '{torn[2]}' and '{torn[3]}'; expected one fold "
            "for each (user, item); correct the input"
        )


def fold_of(n_folds: int, seed: int, columns: SplitColumns) -> Column:
    """Fold of a rating, 0 ≤ fold < n_folds: a hash of seed and pair, independent of the hash of a split."""
    draw = F.xxhash64(F.lit("fold"), F.lit(seed), column(columns.user), column(columns.item))
    return F.pmod(draw, F.lit(n_folds))


def _random_part(config: SplitConfig, columns: SplitColumns) -> Column:
    bucket = F.pmod(_draw(config, columns), F.lit(_BUCKETS))
    holdout_end = round(config.holdout * _BUCKETS)
    validation_end = holdout_end + round(config.validation * _BUCKETS)
    return _part(bucket < holdout_end, bucket < validation_end)


def _given_part(config: SplitConfig, columns: SplitColumns) -> Column:
    fold = column(str(columns.fold)).cast("string")
    return _part(fold == str(config.holdout_fold), fold == str(config.validation_fold))


def _split_users(ratings: DataFrame, config: SplitConfig, columns: SplitColumns, latest: list[str]) -> DataFrame:
    """Split the pairs of each user by position: latest first if there is a timestamp, then in random order."""
    draw, item = _draw(config, columns), column(columns.item)
    of_user = Window.partitionBy(column(columns.user))
    from_front = of_user.orderBy(*map(F.desc, latest), draw, item)
    from_back = of_user.orderBy(*map(F.asc, latest), draw.desc(), item.desc())
    # Dense rank: several ratings of one pair get the same position.
    placed = ratings.withColumn(_PLACE, F.dense_rank().over(from_front))
    place = F.col(_PLACE)
    n_pairs = place + F.dense_rank().over(from_back) - 1
    if latest:
        n_holdout, n_judged = F.lit(config.holdout_items), F.lit(config.holdout_items + config.validation_items)
    else:
        n_holdout, n_judged = (
            F.round(n_pairs * share) for share in (config.holdout, config.holdout + config.validation)
        )
    may_judge = place < n_pairs  # every user keeps a pair to train on
    return placed.withColumn(PART, _part(may_judge & (place <= n_holdout), may_judge & (place <= n_judged))).drop(
        _PLACE
    )


def _cut(timed: DataFrame, config: SplitConfig) -> DataFrame:
    """Split ratings at the earliest timestamps that keep each part within its share; never split one timestamp."""
    counted = timed.groupBy(_MOMENT).count()
    # Exact, but no task sees all timestamps: each gets a range and the number of ratings in later ranges.
    ranges = counted.repartitionByRange(F.desc(_MOMENT)).withColumn(_RANGE, F.spark_partition_id()).persist()
    try:
        sizes = sorted(tuple(row) for row in ranges.groupBy(_RANGE).agg(F.sum("count")).collect()) or [(0, 0)]
        numbers, n_ratings = zip(*sizes, strict=True)
        *later, total = accumulate(n_ratings, initial=0)
        before = F.create_map(*map(F.lit, chain(*zip(numbers, later, strict=True))))
        within = F.sum("count").over(Window.partitionBy(_RANGE).orderBy(F.desc(_MOMENT)))
        n_from_here = before[F.col(_RANGE)] + within
        shares = {"holdout": config.holdout, "validation": config.holdout + config.validation}
        allowed = {name: round(share * total) for name, share in shares.items()}
        reached = ranges.select(_MOMENT, n_from_here.alias("count"))
        starts = reached.agg(
            *(F.min(F.when(F.col("count") <= n_most, F.col(_MOMENT))).alias(name) for name, n_most in allowed.items())
        ).toArrow()
    finally:
        ranges.unpersist()
    for name, n_most in allowed.items():
        if n_most > 0 and starts[name].null_count:
            raise DataError(
                f"cannot split by time: more than {n_most} of {total} ratings have the latest timestamp, so the {name} "
                f"would be too large; raise split.{name} or choose another split.method"
            )
    # As a table, because Python has no object for every timestamp.
    cuts = timed.sparkSession.createDataFrame(starts.rename_columns([f"__mfspark_{name}" for name in allowed]))
    cut = timed.crossJoin(F.broadcast(cuts))
    holdout, validation = (F.col(name) for name in cuts.columns)
    part = _part(F.col(_MOMENT) >= holdout, F.col(_MOMENT) >= validation)
    return cut.withColumn(PART, part).drop(*cuts.columns)


def _draw(config: SplitConfig, columns: SplitColumns) -> Column:
    """A hash of the seed and the pair."""
    return F.xxhash64(F.lit(config.seed), column(columns.user), column(columns.item))


def _part(is_holdout: Column, is_validation: Column) -> Column:
    return F.when(is_holdout, F.lit("holdout")).when(is_validation, F.lit("validation")).otherwise(F.lit("train"))
