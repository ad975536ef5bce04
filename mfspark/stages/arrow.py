"""Arrow batches between the JVM and Python: their size, and joining them."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
from pyspark.sql import SparkSession

_SETTINGS = {
    # 10,000, Spark's default, costs a wake-up of the worker for each 120 KB of ratings.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "200000",
    # With any limit on bytes, Spark measures the whole batch again after every row; this value means none.
    "spark.sql.execution.arrow.maxBytesPerBatch": str(2**31 - 1),
    # Strings of more than 2 GiB in one array.
    "spark.sql.execution.arrow.useLargeVarTypes": "true",
}

_lock = threading.Lock()
_threads_within = 0
_before: dict[str, str | None] = {}


@contextmanager
def large_arrow_batches(spark: SparkSession) -> Iterator[None]:
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
