"""Encode: raw ratings to arrays, in one pass over the input; ids and ratings become positions in dictionaries.

Each input partition has its own dictionaries; `index` joins them, `block` translates. After this step no data moves
record by record.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mfspark.engine.arrow import gather_batches
from mfspark.engine.engine import Parts
from mfspark.errors import DataError
from mfspark.kernels.csr import pack_weights

# One task gathers this many ratings before it encodes them: 4 Mi × 20 bytes = 80 MB.
_RATINGS_IN_MEMORY = 1 << 22
# Sample of ratings that decides whether to try a small table of values.
_SAMPLE = 4096
MAX_RATING_VALUES = 256
"""Number of distinct ratings that fit a one-byte code."""


class Encoded(NamedTuple):
    """One column: its distinct values, and the position of each value among them."""

    values: pa.Array
    positions: NDArray[np.int32]


class EncodedRatings(NamedTuple):
    """Some of the ratings; all columns have the same length."""

    users: Encoded
    items: Encoded
    ratings: NDArray[Any]
    """Values, or uint8 codes of them. A value is a float32 rating, or the uint64 of a rating with its weight."""
    rating_values: NDArray[Any] | None
    """[≤ 256], the value of each code."""
    is_validation: NDArray[np.bool_] | None
    """None: all ratings are for training."""
    n_unusable: dict[str, int]
    """Number of unusable rows by reason. If there are any, the columns are empty."""


def encode_ratings(ratings: Parts[pa.RecordBatch]) -> Parts[EncodedRatings]:
    """Encode the ratings as a few large arrays per part.

    ratings : user_id, item_id, rating float; optional: weight float, is_validation boolean

    Cost: one scan; 20 bytes of scratch memory per rating in each task, for up to 4 Mi ratings at a time.
    """
    return ratings.map(_encode_part)


def _encode_part(_: int, batches: Iterable[pa.RecordBatch]) -> Iterator[EncodedRatings]:
    """Executor: one part of the input."""
    return map(_encode, gather_batches(batches, _RATINGS_IN_MEMORY))


def _encode(table: pa.Table) -> EncodedRatings:
    n_unusable = count_unusable(table)
    if n_unusable:
        table = table.slice(0, 0)
    values = table["rating"].to_numpy()
    if "weight" in table.column_names:
        values = pack_weights(values, table["weight"].to_numpy())
    codes, rating_values = _encode_values(values)
    return EncodedRatings(
        _dictionary_of(table["user_id"]),
        _dictionary_of(table["item_id"]),
        values if rating_values is None else codes,
        rating_values,
        table["is_validation"].to_numpy() if "is_validation" in table.column_names else None,
        n_unusable,
    )


def count_unusable(table: pa.Table) -> dict[str, int]:
    """Number of unusable ratings by reason."""
    counts = {
        **{f"null {side} ids": table[f"{side}_id"].null_count for side in ("user", "item")},
        **{f"NaN {side} ids": _count_nan(table[f"{side}_id"]) for side in ("user", "item")},
        # Arrow's nulls become NaN in numpy.
        "null, NaN or infinite ratings": int(np.count_nonzero(~np.isfinite(table["rating"].to_numpy()))),
    }
    if "weight" in table.column_names:
        weights = table["weight"].to_numpy()
        counts["null, NaN, infinite or non-positive weights"] = int(
            np.count_nonzero(~(np.isfinite(weights) & (weights > 0)))
        )
    if "is_validation" in table.column_names:
        counts["null validation flags"] = table["is_validation"].null_count
    return {reason: count for reason, count in counts.items() if count}


def _count_nan(column: pa.ChunkedArray) -> int:
    return pc.sum(pc.is_nan(column)).as_py() or 0 if pa.types.is_floating(column.type) else 0


def require_usable(n_unusable: Counter[str]) -> None:
    """Raise DataError if some ratings cannot be trained on."""
    if n_unusable:
        problems = ", ".join(f"{count} {reason}" for reason, count in n_unusable.items())
        raise DataError(
            f"cannot train on {problems}; drop these rows, or let the ingest step move them to rejected_ratings"
        )


def _dictionary_of(column: pa.ChunkedArray) -> Encoded:
    encoded = column.combine_chunks().dictionary_encode()
    return Encoded(encoded.dictionary, encoded.indices.to_numpy())


def _encode_values(values: NDArray[Any]) -> tuple[Any, NDArray[Any] | None]:
    """Codes of the values and the value of each code; None if there are more than 256 values."""
    if np.unique(values[:_SAMPLE]).size <= MAX_RATING_VALUES:
        distinct, codes = _dictionary_of(pa.chunked_array([pa.array(values)]))
        if len(distinct) <= MAX_RATING_VALUES:
            return codes.astype(np.uint8), distinct.to_numpy(zero_copy_only=False)
    return None, None
