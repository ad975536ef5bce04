"""Ingest: split the raw table into usable ratings and rejected rows with reasons."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.config.sections import ColumnsConfig, DuplicatePolicy
from mfspark.errors import DataError, SchemaError
from mfspark.tables.columns import (
    column,
    id_column,
    is_floating,
    is_text,
    rating_column,
    require_columns,
    require_fold_column,
    require_id_column,
    require_numeric_column,
    require_timestamp_column,
)

_EXAMPLES_IN_MESSAGE = 3


def require_rating_schema(raw: DataFrame, columns: ColumnsConfig) -> None:
    """Raise SchemaError unless all configured columns exist with usable types."""
    require_columns(raw, columns.used)
    require_id_column(raw, columns.user)
    require_id_column(raw, columns.item)
    if columns.rating:
        require_numeric_column(raw, columns.rating)
    if columns.timestamp is not None:
        require_timestamp_column(raw, columns.timestamp)
        if columns.timestamp_format is not None and not is_text(raw, columns.timestamp):
            raise SchemaError(
                f"columns.timestamp_format is for text, and column '{columns.timestamp}' is no text; leave it out"
            )
    if columns.weight is not None:
        require_numeric_column(raw, columns.weight)
    if columns.fold is not None:
        require_fold_column(raw, columns.fold)


def rejection_reason(raw: DataFrame, columns: ColumnsConfig) -> Column:
    """Why a raw row cannot be used, several reasons joined by '; '; null for a good row."""
    reasons = [*_unusable_id(raw, columns.user), *_unusable_id(raw, columns.item)]
    if columns.rating:
        reasons += _unusable_number(raw, columns.rating)
    if columns.weight is not None:
        is_positive = column(columns.weight).cast("float") > 0
        reasons += [
            *_unusable_number(raw, columns.weight),
            F.when(~is_positive, F.lit(f"{columns.weight} is not positive")),
        ]
    if columns.timestamp is not None:
        reasons += _unusable_key(raw, columns.timestamp)
        if is_text(raw, columns.timestamp):
            form = columns.timestamp_format or "ISO 8601"
            is_unread = column(columns.timestamp).isNotNull() & _moment(raw, columns).isNull()
            reasons.append(F.when(is_unread, F.lit(f"{columns.timestamp} is not of the form {form}")))
    if columns.fold is not None:
        reasons += _unusable_key(raw, columns.fold)
    return F.nullif(F.concat_ws("; ", *reasons), F.lit(""))


def _unusable_id(raw: DataFrame, name: str) -> list[Column]:
    reasons = _unusable_key(raw, name)
    if is_text(raw, name):
        reasons.append(F.when(column(name).rlike(r"^\s*$"), F.lit(f"{name} is blank")))
    return reasons


def _moment(raw: DataFrame, columns: ColumnsConfig) -> Column:
    """The timestamp; of a text that is none, null."""
    moment = column(str(columns.timestamp))
    if not is_text(raw, str(columns.timestamp)):
        return moment
    if columns.timestamp_format is not None:
        return F.try_to_timestamp(moment, F.lit(columns.timestamp_format))
    return F.when(moment.rlike(r"^\s*\d{4}-\d{2}"), moment.try_cast("timestamp"))


def _unusable_key(raw: DataFrame, name: str) -> list[Column]:
    reasons = [F.when(column(name).isNull(), F.lit(f"{name} is null"))]
    if is_floating(raw, name):
        reasons.append(F.when(F.isnan(column(name)), F.lit(f"{name} is NaN")))
    return reasons


def _unusable_number(raw: DataFrame, name: str) -> list[Column]:
    # Checked as float32, the type of training: 1e300 is finite only as a double.
    is_infinite = F.abs(column(name).cast("float")) == float("inf")
    return [*_unusable_key(raw, name), F.when(is_infinite, F.lit(f"{name} is infinite"))]


def rejected_rows(raw: DataFrame, columns: ColumnsConfig) -> DataFrame:
    """The unusable raw rows, with the reason in an added last column `reason`."""
    taken = {name.lower() for name in raw.columns}
    reason_name = "reason"
    while reason_name in taken:
        reason_name = "_" + reason_name
    reason = rejection_reason(raw, columns)
    return raw.where(reason.isNotNull()).withColumn(reason_name, reason)


def accepted_ratings(raw: DataFrame, columns: ColumnsConfig) -> DataFrame:
    """The usable rows.

    user_id, item_id, rating float; timestamp, weight float, fold string if configured.
    """
    kept = [
        id_column(raw, columns.user).alias("user_id"),
        id_column(raw, columns.item).alias("item_id"),
        rating_column(columns.rating),
    ]
    if columns.timestamp:
        kept.append(_moment(raw, columns).alias("timestamp"))
    if columns.weight:
        kept.append(column(columns.weight).cast("float").alias("weight"))
    if columns.fold:
        kept.append(column(columns.fold).cast("string").alias("fold"))
    return raw.where(rejection_reason(raw, columns).isNull()).select(*kept)


def count_by_reason(raw: DataFrame, columns: ColumnsConfig) -> dict[str | None, int]:
    """Number of rows by rejection reason; None for accepted rows. Cost: one scan of the input."""
    counts = raw.groupBy(rejection_reason(raw, columns).alias("reason")).count().collect()
    return {row["reason"]: row["count"] for row in counts}


def require_acceptable(counts: dict[str | None, int], max_rejected_share: float, n_carried: int = 0) -> None:
    """Raise DataError if there is nothing to train on or too many rows were rejected.

    n_carried : number of ratings that were accepted before
    """
    n_rows = sum(counts.values())
    if n_rows == 0 and n_carried:
        return
    if n_rows == 0:
        raise DataError("the input has no rows; expected at least one rating; check the input")
    n_rejected = n_rows - counts.get(None, 0)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in counts.items() if reason)
    if n_rejected / n_rows > max_rejected_share:
        raise DataError(
            f"{n_rejected} of {n_rows} rows were rejected ({n_rejected / n_rows:.1%}; {reasons}); at most "
            f"{max_rejected_share:.1%} is allowed; look at rejected_ratings in this run, then correct the input or "
            "raise input.max_rejected_share"
        )
    if n_rejected == n_rows and not n_carried:
        raise DataError(f"all {n_rows} rows were rejected ({reasons}); expected at least one rating; correct the input")


def merge_duplicates(ratings: DataFrame, policy: DuplicatePolicy) -> DataFrame:
    """Merge the ratings of each (user, item) by the policy; `keep_all` keeps every rating.

    ratings : user_id, item_id, rating, for `last` also timestamp; optionally weight and fold

    `last` takes the rating with the greatest timestamp, and among equal ones the greatest rating. So the result does
    not depend on the order of rows. Ratings merged by `mean`, `max` or `sum` get the greatest of their weights and of
    their timestamps. `error` raises DataError if a pair has several ratings (cost: one aggregation).
    """
    if policy == "keep_all":
        return ratings
    pairs = ratings.groupBy("user_id", "item_id")
    if policy == "error":
        _require_unique_pairs(pairs.count().where(F.col("count") > 1))
        return ratings
    if policy == "last":
        others = [name for name in ratings.columns if name in ("rating", "weight", "fold")]
        latest = F.max(F.struct("timestamp", *others)).alias("latest")
        return pairs.agg(latest).select(
            "user_id", "item_id", *(f"latest.{name}" for name in others), "latest.timestamp"
        )
    merge = {"mean": F.avg, "max": F.max, "sum": F.sum}[policy]
    merged = [merge("rating").cast("float").alias("rating")]
    merged += [F.max(name).alias(name) for name in ("timestamp", "weight", "fold") if name in ratings.columns]
    return pairs.agg(*merged)


def _require_unique_pairs(repeated: DataFrame) -> None:
    # As text: Python has no object for a date beyond its year 9999.
    ids = [F.col(name).cast("string") for name in ("user_id", "item_id")]
    examples = repeated.select(*ids, "count").limit(_EXAMPLES_IN_MESSAGE).collect()
    if examples:
        shown = ", ".join(f"({row[0]}, {row[1]}) {row[2]} times" for row in examples)
        raise DataError(
            f"some (user, item) pairs have several ratings: {shown}, …; input.duplicates = 'error' allows one each; "
            "choose another policy or correct the input"
        )
