"""Spark's types of Parquet columns, with and without a JVM."""

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql.types import ArrayType, LongType, TimestampNTZType

from mfspark.engine.parquet import _ArrowTypes, _JavaTypes
from mfspark.errors import DataError

ONES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]
COLUMNS = {
    **{name: pa.array([1], name) for name in ONES},
    **{f"timestamp {unit}": pa.array([1], pa.timestamp(unit, "UTC")) for unit in ("ms", "us", "ns")},
    **{f"local {unit}": pa.array([1], pa.timestamp(unit)) for unit in ("ms", "us", "ns")},
    "zoned ns": pa.array([1], pa.timestamp("ns", "Europe/Berlin")),
    **{f"time {unit}": pa.array([1], pa.time64(unit)) for unit in ("us", "ns")},
    "date": pa.array([1], pa.date32()),
    "text": pa.array(["a"]),
    "large text": pa.array(["a"], pa.large_string()),
    "dictionary": pa.array(["a"]).dictionary_encode(),
    "bytes": pa.array([b"a"]),
    "fixed bytes": pa.array([b"ab"], pa.binary(2)),
    "flag": pa.array([True]),
    "decimal": pa.array([Decimal("1.5")], pa.decimal128(20, 2)),
    "long decimal": pa.array([Decimal("1.5")], pa.decimal256(50, 2)),
    "duration": pa.array([1], pa.duration("us")),
    "list": pa.array([[1]], pa.list_(pa.int64())),
    "struct": pa.array([{"a": 1, "b": "x"}]),
    "map": pa.array([[("a", 1.0)]], pa.map_(pa.string(), pa.float32())),
    "half": pa.array([1.0], pa.float16()),
}


@pytest.mark.spark
@pytest.mark.classic
@pytest.mark.parametrize("settings", [{}, {"use_deprecated_int96_timestamps": True}])
def test_pyarrow_finds_the_types_that_spark_finds(spark, tmp_path, settings):
    before = spark.conf.get("spark.sql.legacy.parquet.nanosAsLong")
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", True)
    try:
        pq.write_table(pa.table(COLUMNS), tmp_path / "file", **settings)
        found, expected = (dict(types.of(str(tmp_path / "file"))) for types in (_ArrowTypes(), _JavaTypes(spark)))
        assert found == expected
    finally:
        spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", before)


def test_nested_nanoseconds_are_left_out(tmp_path):
    columns = {
        "list": pa.array([[1]], pa.list_(pa.timestamp("ns"))),
        "struct": pa.array([{"a": [1]}], pa.struct({"a": pa.list_(pa.duration("us"))})),
        "good": pa.array([[1]], pa.list_(pa.timestamp("us"))),
    }
    pq.write_table(pa.table(columns), tmp_path / "file")
    found = dict(_ArrowTypes().of(str(tmp_path / "file")))
    assert (found["list"], found["struct"], found["good"]) == (None, None, ArrayType(TimestampNTZType()))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "good")
    assert _ArrowTypes().of(f"file:{tmp_path}/good") == [("a", LongType())]
    (tmp_path / "bad").write_text("text")
    for name in ("bad", "absent"):
        with pytest.raises(DataError, match=f"cannot read '{tmp_path}/{name}' as a Parquet file: .*; replace it or"):
            _ArrowTypes().of(f"{tmp_path}/{name}")
