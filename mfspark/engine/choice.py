"""Choice of the engine: small tables are read into the driver's memory."""

from collections.abc import Callable
from typing import Any, Literal

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame

from mfspark.engine.engine import Parts
from mfspark.engine.local import LocalEngine, LocalParts
from mfspark.engine.rdd import RddEngine

EngineChoice = Literal["auto", "local", "rdd"]

MAX_LOCAL_ROWS = 1 << 22
"""Most rows of a table that the driver reads into memory: 4 Mi ratings take about 100 MB during the read."""

# If Spark estimates a plan at no more than this many bytes, it is read without counting its rows first. Parquet of
# ratings takes 2 to 10 bytes per row.
_SMALL_BYTES = 1 << 25
# Larger input is not counted: a pass over it costs more than the local engine can save.
_LARGE_BYTES = 1 << 32


def local_engine(table: DataFrame) -> LocalEngine:
    """The local engine for the session of this table."""
    spark = table.sparkSession
    is_local = str(spark.sparkContext.master).startswith("local")
    return LocalEngine(spark, spark.sparkContext.defaultParallelism) if is_local else LocalEngine(spark)


def read_small(table: DataFrame, max_rows: int | None = None) -> LocalParts[pa.RecordBatch] | None:
    """The rows of a table on the driver; None if there are more than max_rows (MAX_LOCAL_ROWS), or it looks large.

    Cost: one Spark job; one more to count the rows if Spark estimates more than 32 MiB or knows no size. Input above
    4 GiB is not read.
    """
    max_rows = MAX_LOCAL_ROWS if max_rows is None else max_rows
    plan: Any = table._jdf.queryExecution().optimizedPlan()
    if _bytes(plan) > _SMALL_BYTES and (_input_bytes(table, plan) > _LARGE_BYTES or table.count() > max_rows):
        return None
    batches = local_engine(table).read(table)
    n_rows = sum(batch.num_rows for batch in batches.records)
    return batches if n_rows <= max_rows else None


def read_where_it_fits(
    table: DataFrame,
    engine: EngineChoice = "auto",
    storage: StorageLevel = StorageLevel.MEMORY_AND_DISK,
    fits: Callable[[LocalParts[pa.RecordBatch]], bool] = lambda _: True,
) -> Parts[pa.RecordBatch]:
    """The rows of a table on the engine asked for; "auto": on the driver if there are few, else on the executors.

    storage : what the executors keep, they keep at this level
    fits : whether the work on these few rows fits the driver; for "auto"
    """
    small = read_small(table) if engine == "auto" else None
    if engine == "local" or (small is not None and fits(small)):
        return local_engine(table).read(table) if small is None else small
    return RddEngine(table.sparkSession, storage).read(table)


def _bytes(plan: Any) -> int:
    """Spark's estimate of the size of a plan's result."""
    return int(str(plan.stats().sizeInBytes()))


def _input_bytes(table: DataFrame, plan: Any) -> int:
    """The size of the input of a plan, as far as Spark knows it."""
    unknown = int(table.sparkSession.conf.get("spark.sql.defaultSizeInBytes", None) or 2**63 - 1)
    leaves = plan.collectLeaves()
    sizes = [_bytes(leaves.apply(i)) for i in range(leaves.size())]
    return sum(size for size in sizes if size < unknown)
