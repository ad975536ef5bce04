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

from mfspark.engine.session import is_connect

_SETTINGS = {
    # Spark's default of 10,000 wakes up the worker for every 120 KB of ratings.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "32768",
    # With any byte limit, Spark measures the whole batch again after every row; this value means no limit.
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

    Spark's public methods that pass Arrow batches to Python return a DataFrame. To get its binary columns into an RDD,
    the JVM would pickle the rows: 20 million ratings took 10 s longer. Also, they take the batch size from the session
    when they run, not when they are created.
    """
    schema = arrow_schema(table.schema, prefers_large_types=True)
    return _messages(table).map(partial(_read_batch, schema))


def collect_batches(table: DataFrame) -> list[pa.RecordBatch]:
    """The rows of a DataFrame in large Arrow batches, on the driver.

    Runs one Spark job, without Python workers.
    """
    schema = arrow_schema(table.schema, prefers_large_types=True)
    if is_connect(table.sparkSession):
        return table.toArrow().cast(schema).to_batches()  # type: ignore[no-any-return]
    return [_read_batch(schema, message) for message in _messages(table).collect()]


def _messages(table: DataFrame) -> "RDD[bytes]":
    with _large_batches(table.sparkSession):
        messages = table._jdf.toArrowBatchRdd().toJavaRDD()
    return RDD(messages, table.sparkSession.sparkContext, NoOpSerializer())


def to_table(spark: SparkSession, batches: RDD[pa.RecordBatch], schema: StructType) -> DataFrame:
    """The DataFrame of these batches, with the names and types of the schema. Lazy.

    Uses the entry point of SparkR, because PySpark has none for an RDD of batches. With mapInArrow each task would need
    a second Python worker from another pool.
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
    """The DataFrame of batches on the driver, with the names and types of the schema.

    Spark knows the size of a small one and broadcasts it in joins.
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
    """One value of any type as text for a message; long text is shortened.

    Arrow makes the text, because Python cannot hold a date beyond the year 9999 or a string that is not UTF-8.
    """
    text: str = values.slice(position, 1).to_string(skip_new_lines=True)
    return text[1:-1]


def _read_batch(schema: pa.Schema, message: bytes) -> pa.RecordBatch:
    return pa.ipc.read_record_batch(pa.py_buffer(message), schema)


def _write_batch(schema: pa.Schema, batch: pa.RecordBatch) -> bytes:
    return batch.cast(schema).serialize().to_pybytes()  # type: ignore[no-any-return]


@contextmanager
def _large_batches(spark: SparkSession) -> Iterator[None]:
    """Make plans inside this context move their rows in large batches; restore the session's settings afterwards.

    For rows of a few bytes. Thread-safe: the first thread in sets them, the last one out restores them. Runs on the
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
