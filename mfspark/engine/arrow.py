"""DataFrames to Arrow batches and back, on the executors or on the driver."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import pyarrow as pa
from pyspark import RDD
from pyspark.serializers import NoOpSerializer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

_SETTINGS = {
    # 10,000, Spark's default, costs a wake-up of the worker for each 120 KB of ratings.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "32768",
    # With any limit on bytes, Spark measures the whole batch again after every row; this value means none.
    "spark.sql.execution.arrow.maxBytesPerBatch": str(2**31 - 1),
    # Strings of more than 2 GiB in one array.
    "spark.sql.execution.arrow.useLargeVarTypes": "true",
}

# Spark 4.0 takes UTC without being told.
_UTC: dict[str, Any] = {"timezone": "UTC"} if "timezone" in signature(to_arrow_schema).parameters else {}

_lock = threading.Lock()
_threads_within = 0
_before: dict[str, str | None] = {}


def read_batches(table: DataFrame) -> RDD[pa.RecordBatch]:
    """The rows of a DataFrame in large Arrow batches.

    Spark's public ways from a DataFrame to Python functions on arrays end in a DataFrame again, whose binary columns
    an RDD could only get through a pickling of rows in the JVM: 20 million ratings then took 10 s longer. And they
    take the size of their batches from the session when they run, not when they are made.
    """
    schema = arrow_schema(table.schema, prefers_large_types=True)
    return _messages(table).map(partial(_read_batch, schema))


def collect_batches(table: DataFrame) -> list[pa.RecordBatch]:
    """The rows of a DataFrame in large Arrow batches, on the driver.

    Runs one Spark job; no Python worker takes part.
    """
    schema = arrow_schema(table.schema, prefers_large_types=True)
    return [_read_batch(schema, message) for message in _messages(table).collect()]


def _messages(table: DataFrame) -> "RDD[bytes]":
    with _large_batches(table.sparkSession):
        messages = table._jdf.toArrowBatchRdd().toJavaRDD()
    return RDD(messages, table.sparkSession.sparkContext, NoOpSerializer())


def to_table(spark: SparkSession, batches: RDD[pa.RecordBatch], schema: StructType) -> DataFrame:
    """The DataFrame of these batches, whose columns have the names and types of the schema. Lazy.

    By SparkR's way in, since Spark offers Python none for an RDD of batches; with mapInArrow each task would need a
    second Python worker, from a pool of its own.
    """
    # The JVM's reader takes each buffer for what the schema says, so small offsets where the schema has no large types.
    messages = batches.map(partial(_write_batch, arrow_schema(schema)))._reserialize(NoOpSerializer())
    jvm: Any = spark._jvm
    sql = jvm.org.apache.spark.sql
    rows = sql.api.r.SQLUtils.toDataFrame(
        messages._jrdd, sql.types.StructType.fromJson(schema.json()), spark._jsparkSession
    )
    return DataFrame(rows, spark)


def local_table(spark: SparkSession, batches: list[pa.RecordBatch], schema: StructType) -> DataFrame:
    """The DataFrame of batches on the driver, whose columns have the names and types of the schema.

    Spark knows the size of a small one, and broadcasts it in joins.
    """
    table = pa.Table.from_batches(batches) if batches else arrow_schema(schema).empty_table()
    return spark.createDataFrame(table.cast(arrow_schema(schema)), schema)


def arrow_schema(schema: StructType, *, prefers_large_types: bool = False) -> pa.Schema:
    """The Arrow schema of these columns, as Spark converts it, but with UTC for the time zone of timestamps.

    The values are the same microseconds in any zone, and Arrow does not know all names that Spark does, GMT+8 for one.
    """
    return to_arrow_schema(schema, prefers_large_types=prefers_large_types, **_UTC)


def gather_batches(batches: Iterable[pa.RecordBatch], n_rows: int) -> Iterator[pa.Table]:
    """Join batches until they have at least n_rows; the last table may have fewer. Runs on executors."""
    gathered: list[pa.RecordBatch] = []
    n_gathered = 0
    for batch in batches:
        gathered.append(batch)
        n_gathered += batch.num_rows
        if n_gathered >= n_rows:
            yield pa.Table.from_batches(gathered)
            gathered, n_gathered = [], 0
    if n_gathered:
        yield pa.Table.from_batches(gathered)


def shown(values: pa.Array, position: int) -> str:
    """One value as text for a message, shortened where it is long.

    Of every type: Python has no object for a date beyond its year 9999, or for a string that is no UTF-8.
    """
    text: str = values.slice(position, 1).to_string(skip_new_lines=True)
    return text[1:-1]


def _read_batch(schema: pa.Schema, message: bytes) -> pa.RecordBatch:
    return pa.ipc.read_record_batch(pa.py_buffer(message), schema)


def _write_batch(schema: pa.Schema, batch: pa.RecordBatch) -> bytes:
    return batch.cast(schema).serialize().to_pybytes()  # type: ignore[no-any-return]


@contextmanager
def _large_batches(spark: SparkSession) -> Iterator[None]:
    """Have the plans made within move their rows in large batches; the session's own settings are put back after.

    For rows of a few bytes. Safe in several threads: the first one in sets, the last one out puts back. Runs on the
    driver.
    """
    global _threads_within  # the settings are the session's, however many threads use it
    with _lock:
        if _threads_within == 0:
            _before.update({key: spark.conf.get(key, None) for key in _SETTINGS})
            _set(spark, _SETTINGS)
        _threads_within += 1
    try:
        yield
    finally:
        with _lock:
            _threads_within -= 1
            if _threads_within == 0:
                _set(spark, _before)


def _set(spark: SparkSession, settings: dict[str, str] | dict[str, str | None]) -> None:
    for key, value in settings.items():
        if value is None:
            spark.conf.unset(key)
        else:
            spark.conf.set(key, value)
