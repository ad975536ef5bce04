"""Choice of the engine: work goes to the driver's memory if it is small, or if the driver has all the cores."""

import re
from collections.abc import Callable
from typing import Any, Literal

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from mfspark.engine.connect import ConnectEngine
from mfspark.engine.engine import Engine, Parts, Record
from mfspark.engine.local import LocalEngine, LocalParts
from mfspark.engine.rdd import RddEngine
from mfspark.engine.session import count_cores, is_connect
from mfspark.errors import ConfigError

EngineChoice = Literal["auto", "local", "rdd", "connect"]

MAX_LOCAL_ROWS = 1 << 22
"""Most rows of a table that the driver reads into memory: 4 Mi ratings take about 100 MB during the read."""

# If Spark estimates a plan at no more than this many bytes, it is read without counting its rows first. Parquet of
# ratings takes 2 to 10 bytes per row.
_SMALL_BYTES = 1 << 25
# Larger input is not counted: a pass over it costs more than the local engine can save.
_LARGE_BYTES = 1 << 32

# Spark Connect tells the size of a plan's result only in the text of the plan.
_SIZE = re.compile(r"Statistics\(sizeInBytes=([0-9.E+]+) ([KMGTPE]i)?B")
_UNITS = {"": 0, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def local_engine(spark: SparkSession) -> LocalEngine:
    """The local engine for a session; in local mode with as many threads as the session has cores."""
    is_local = not is_connect(spark) and str(spark.sparkContext.master).startswith("local")
    return LocalEngine(spark, count_cores(spark)) if is_local else LocalEngine(spark)


def executors_engine(
    spark: SparkSession, storage: StorageLevel = StorageLevel.MEMORY_AND_DISK, wanted: EngineChoice = "auto"
) -> Engine:
    """The engine on the executors of this session.

    Raises
    ------
    ConfigError    the wanted engine needs a session of the other kind, or Spark is too old for Spark Connect
    """
    if is_connect(spark):
        if wanted == "rdd":
            raise ConfigError(
                "engine 'rdd' needs a classic Spark session, found a session of Spark Connect, which has no RDDs; use "
                "engine 'auto', 'local' or 'connect'"
            )
        return ConnectEngine(spark, storage)
    if wanted == "connect":
        raise ConfigError(
            "engine 'connect' needs a session of Spark Connect, found a classic Spark session; use engine 'auto', "
            "'local' or 'rdd'"
        )
    return RddEngine(spark, storage)


def read_small(table: DataFrame, max_rows: int | None = None) -> LocalParts[pa.RecordBatch] | None:
    """The rows of a table on the driver; None if there are more than max_rows (MAX_LOCAL_ROWS), or it looks large.

    Cost: one Spark job; one more to count the rows if Spark estimates more than 32 MiB or knows no size. Input above
    4 GiB is not read.
    """
    max_rows = MAX_LOCAL_ROWS if max_rows is None else max_rows
    if _result_bytes(table) > _SMALL_BYTES and (is_large(table) or table.count() > max_rows):
        return None
    batches = local_engine(table.sparkSession).read(table)
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
        return local_engine(table.sparkSession).read(table) if small is None else small
    return executors_engine(table.sparkSession, storage, engine).read(table)


def has_all_cores(spark: SparkSession) -> bool:
    """Whether the driver's threads are at least as many as the executors' cores, as in local mode.

    Then the driver computes as fast as they do, and nothing moves between iterations. On Spark Connect never: the
    client may be a small machine far away.
    """
    return not is_connect(spark) and local_engine(spark).n_cores >= count_cores(spark)


def on_driver(spark: SparkSession, parts: Parts[Record]) -> LocalParts[Record]:
    """Collect the records, each into a part of its own.

    Cost: one Spark job for as many parts as there are cores, because all records together may be larger than the
    JVM's heap and spark.driver.maxResultSize.
    """
    n_cores, numbers = parts.engine.n_cores, range(parts.n_parts)
    shares = [numbers[first : first + n_cores] for first in range(0, parts.n_parts, n_cores)]
    records = [record for share in shares for record in parts.collect(share)]
    return LocalParts(local_engine(spark), [[record] for record in records])


def is_large(table: DataFrame) -> bool:
    """Whether Spark knows that the input of a table has more than 4 GiB."""
    unknown = int(table.sparkSession.conf.get("spark.sql.defaultSizeInBytes", None) or 2**63 - 1)
    if is_connect(table.sparkSession):
        sizes = _sizes_in_text(_explained(table))[1]
    else:
        leaves = _plan(table).collectLeaves()
        sizes = [_bytes(leaves.apply(i)) for i in range(leaves.size())]
    return sum(size for size in sizes if size < unknown) > _LARGE_BYTES


def _result_bytes(table: DataFrame) -> int:
    """Spark's estimate of the size of a table."""
    if is_connect(table.sparkSession):
        return _sizes_in_text(_explained(table))[0]
    return _bytes(_plan(table))


def _plan(table: DataFrame) -> Any:
    return table._jdf.queryExecution().optimizedPlan()


def _explained(table: DataFrame) -> str:
    return table._explain_string(extended="cost")  # type: ignore[operator, no-any-return]


def _bytes(plan: Any) -> int:
    """Spark's estimate of the size of a plan's result."""
    return int(str(plan.stats().sizeInBytes()))


def _sizes_in_text(explained: str) -> tuple[int, list[int]]:
    """The sizes of the result and of the leaves of a plan that Spark has printed with its costs.

    A leaf is a line that no deeper line follows. The text has three digits of a size.
    """
    lines = explained.partition("== Optimized Logical Plan ==")[2].partition("== Physical Plan ==")[0].splitlines()
    found = [(len(line) - len(line.lstrip(" :+-")), size) for line in lines if (size := _SIZE.search(line))]
    sizes = [(depth, int(float(size[1]) * 2 ** _UNITS[size[2] or ""])) for depth, size in found]
    later = [depth for depth, _size in sizes[1:]] + [0]
    return sizes[0][1], [size for (depth, size), below in zip(sizes, later, strict=True) if below <= depth]
