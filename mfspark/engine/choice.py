"""The choice between the engines: small tables are read into the driver's memory."""

from typing import Any, Literal

import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.engine.engine import Parts
from mfspark.engine.local import LocalEngine, LocalParts
from mfspark.engine.rdd import RddEngine

EngineChoice = Literal["auto", "local", "rdd"]

MAX_LOCAL_ROWS = 1 << 22
"""Rows of a table that the driver reads into its memory: 4 Mi ratings take about 100 MB while they are read."""
MAX_LOCAL_FACTOR_BYTES = 1 << 29
"""Size of one side's factors that the local engine takes by itself."""

# Plans of at most so many bytes, as Spark estimates them, are read without counting their rows first. Parquet of
# ratings takes 2 to 10 bytes a row.
_SMALL_BYTES = 1 << 25
# Input beyond so many bytes is not counted: a pass over it would cost more than the local engine could gain.
_LARGE_BYTES = 1 << 32


def local_engine(table: DataFrame) -> LocalEngine:
    """The local engine beside the session of this table."""
    spark = table.sparkSession
    is_local = str(spark.sparkContext.master).startswith("local")
    return LocalEngine(spark, spark.sparkContext.defaultParallelism) if is_local else LocalEngine(spark)


def read_small(table: DataFrame, max_rows: int | None = None) -> LocalParts[pa.RecordBatch] | None:
    """The rows of a table on the driver; None where there are more than max_rows (MAX_LOCAL_ROWS), or it looks large.

    Cost: one Spark job; one more, which counts the rows, where Spark estimates more than 32 MiB or knows no size. Of
    input beyond 4 GiB nothing is read.
    """
    max_rows = MAX_LOCAL_ROWS if max_rows is None else max_rows
    plan: Any = table._jdf.queryExecution().optimizedPlan()
    if _bytes(plan) > _SMALL_BYTES and (_input_bytes(table, plan) > _LARGE_BYTES or table.count() > max_rows):
        return None
    batches = local_engine(table).read(table)
    n_rows = sum(batch.num_rows for batch in batches.records)
    return batches if n_rows <= max_rows else None


def read_as_wanted(table: DataFrame, engine: EngineChoice) -> LocalParts[pa.RecordBatch] | None:
    """The rows of a table on the driver, if the choice of the engine or their number says so; else None."""
    if engine == "local":
        return local_engine(table).read(table)
    return read_small(table) if engine == "auto" else None


def read_where_it_fits(table: DataFrame) -> Parts[pa.RecordBatch]:
    """The rows of a table on the driver where they are few, else on the executors."""
    small = read_small(table)
    return RddEngine(table.sparkSession).read(table) if small is None else small


def _bytes(plan: Any) -> int:
    """The size of a plan's result, as Spark estimates it."""
    return int(str(plan.stats().sizeInBytes()))


def _input_bytes(table: DataFrame, plan: Any) -> int:
    """The size of all that a plan reads, as far as Spark knows it."""
    unknown = int(table.sparkSession.conf.get("spark.sql.defaultSizeInBytes", None) or 2**63 - 1)
    leaves = plan.collectLeaves()
    sizes = [_bytes(leaves.apply(i)) for i in range(leaves.size())]
    return sum(size for size in sizes if size < unknown)
