"""Rows that cannot be trained on are counted by reason, and refused; no JVM is started."""

import pyarrow as pa
import pytest

from mfspark.blocks.encode import encode_ratings
from mfspark.blocks.index import index_ratings
from mfspark.errors import DataError
from tests.local import columns_of, parts_of


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (columns_of([1, 1], pa.array([None, 2], pa.int32()), [3.0, 3.0]), "1 null item ids"),
        (columns_of([float("nan"), 1.0], [1, 1], [1.0, 1.0]), "1 NaN user ids"),
        (columns_of([1], [2], [float("nan")]), "1 null, NaN or infinite ratings"),
        (
            columns_of([1, 1, 2], [1, 2, 1], [1.0, 2.0, 3.0], is_validation=pa.array([None, None, False])),
            "2 null validation flags",
        ),
        *(
            (
                columns_of([1, 2], [1, 2], [3.0, 3.0], weight=[1.0, weight]),
                "1 null, NaN, infinite or non-positive weights",
            )
            for weight in (0.0, -1.0, float("nan"), float("inf"), None)
        ),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused_by_reason(ratings, message):
    with pytest.raises(DataError, match=f"cannot train on {message}; drop these rows"):
        index_ratings(encode_ratings(parts_of(ratings)))


def test_there_must_be_ratings():
    with pytest.raises(DataError, match="No ratings available"):
        index_ratings(encode_ratings(parts_of(columns_of(pa.array([], pa.int32()), pa.array([], pa.int32()), []))))
