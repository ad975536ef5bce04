"""The Connect engine: records on the executors of a Spark Connect server, as rows of binary.

Spark Connect has DataFrames, but no RDDs, no broadcasts and no JVM. So a record is pickled into rows, a part is a
partition of such rows, a task runs in mapInArrow, `repartitionById` exchanges records, and `localCheckpoint` keeps
them. A plan that starts from kept records is short, so the last iteration costs what the first one does. A value that
tasks read travels with their code; one that is too large for a message travels in pieces, and a broadcast join puts
them before the records of each part.
"""

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial, reduce
from itertools import chain
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from mfspark.engine.arrow import arrow_schema
from mfspark.engine.connect_rows import (
    CHUNK_BYTES,
    PLACE,
    RECORD_ROWS,
    VALUE_ROWS,
    Received,
    Task,
    read_batches,
    read_numbers,
    read_records,
    records_of,
    run_part,
    write_pairs,
    write_pieces,
    write_records,
    write_table,
)
from mfspark.engine.engine import Engine, Held, Parts, Record, Result, Sent, Value_co, without_targets
from mfspark.engine.failures import package_versions, require_shipped
from mfspark.engine.jobs import named_jobs
from mfspark.engine.session import count_cores, count_partitions
from mfspark.errors import CapacityError, ConfigError

# gRPC's limit for the plan, which carries the tasks and the values that they read, less what the plan itself takes.
_MOST_CODE_BYTES = 120 << 20
# Two values of this size fit a plan.
_MOST_SENT_BYTES = _MOST_CODE_BYTES // 2 - (2 << 20)
# A larger value travels in plans that each carry so much of it.
_SHARE_BYTES = 14 * CHUNK_BYTES
# The client keeps the plan of a table and sends it with each query; a plan with larger code is computed at once.
_MOST_CODE_OF_TABLE = 4 << 20
# No DataFrame has more partitions.
_MOST_PARTITIONS = 1 << 24
# With more parts than this, records are first merged on the executors.
_PARTS_MERGED_AT_ONCE = 4


class SentRows(Sent[Value_co]):
    """A value in rows on the executors (`VALUE_ROWS`), for tasks that find it in front of their records."""

    def __init__(self, value: Value_co, name: str, frame: DataFrame) -> None:
        self._value, self._name = value, name
        self.frame = frame

    @property
    def value(self) -> Value_co:
        """The value, on the client."""
        return self._value

    def drop(self) -> None:
        """Do nothing: the server removes the rows when no plan of the client needs them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Received, (self._name,)


class ConnectEngine(Engine):
    """Tasks on the executors of a Spark Connect server, version 4.1 or later.

    storage : storage level for `keep`

    Raises
    ------
    ConfigError    the server or the client is older
    """

    name = "connect"

    def __init__(self, spark: SparkSession, storage: StorageLevel = StorageLevel.MEMORY_AND_DISK) -> None:
        if not hasattr(DataFrame, "repartitionById") or _version(spark) < (4, 1):
            raise ConfigError(
                f"on Spark Connect the executors need Spark 4.1 or later, found {spark.version}; use such a server "
                "and client, or engine 'local', which trains on the client"
            )
        self._spark, self.storage = spark, storage

    @property
    def n_cores(self) -> int:
        """Number of tasks that run at the same time, according to Spark."""
        return count_cores(self._spark)

    @property
    def max_sent_bytes(self) -> int:
        """What fits twice into a message of gRPC."""
        return _MOST_SENT_BYTES

    def numbers(self, n_parts: int) -> "ConnectParts[int]":
        """Parts that hold their own number."""
        return ConnectParts(self, self._spark.range(0, n_parts, 1, n_parts), read_numbers, n_parts=n_parts)

    def send(self, value: Result) -> Sent[Result]:
        """Put a value into the code of the tasks that read it, or into rows on the executors if it is too large.

        Cost of rows: the value is pickled; each task gets a copy of it from the server, whose
        spark.driver.maxResultSize it must not exceed.
        """
        if bytes_of(value) <= _MOST_SENT_BYTES:
            return Held(value)
        data, name = pickle.dumps(value, protocol=5), str(uuid4())
        shares = []
        for start in range(0, len(data), _SHARE_BYTES):
            share = data[start : start + _SHARE_BYTES]
            write = partial(write_pieces, name, start // CHUNK_BYTES, share)
            rows = self._spark.range(0, 1, 1, 1).mapInArrow(write, VALUE_ROWS)
            with self.explained():
                shares.append(rows.localCheckpoint(storageLevel=_of_rows(self.storage)))
        return SentRows(value, name, reduce(DataFrame.unionByName, shares))

    def named(self, description: str) -> AbstractContextManager[None]:
        """Tag the Spark jobs of this thread."""
        return named_jobs(self._spark, description)

    def read(self, table: DataFrame) -> "ConnectParts[pa.RecordBatch]":
        """The rows of a DataFrame in Arrow batches. Lazy."""
        return ConnectParts(self, table, partial(read_batches, arrow_schema(table.schema, prefers_large_types=True)))

    def to_table(self, batches: "ConnectParts[pa.RecordBatch]", schema: StructType) -> DataFrame:  # type: ignore[override]
        """The DataFrame of these batches, with the names and types of the schema.

        Lazy, unless the tasks read large values: then the rows are computed now and kept until nothing references them.
        """
        table = batches.apply(partial(write_table, arrow_schema(schema)), schema)
        if batches.n_bytes_read <= _MOST_CODE_OF_TABLE:
            return table
        with self.explained():
            return table.localCheckpoint(storageLevel=_of_rows(self.storage))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise ConfigError where a task fails because the executors do not have mfspark or its packages."""
        try:
            yield
        except PySparkException as error:
            require_shipped(error)
            raise


class ConnectParts(Parts[Record]):
    """Records in the partitions of a DataFrame.

    frame : partition p holds part p
    read : batches of the frame to the records of a part
    tasks : replace the records of each part, one after the other
    n_parts : number of partitions; None: unknown, until it is asked for
    n_sources : `source` is below it in the rows of the frame
    """

    def __init__(
        self,
        engine: ConnectEngine,
        frame: DataFrame,
        read: Callable[[Iterable[pa.RecordBatch]], Iterable[Any]],
        tasks: tuple[Task, ...] = (),
        n_parts: int | None = None,
        n_sources: int = 1,
    ) -> None:
        self._engine, self._frame, self._read, self._tasks = engine, frame, read, tasks
        self._n_parts, self._n_sources = n_parts, n_sources

    @property
    def engine(self) -> ConnectEngine:
        """The engine that runs tasks on these parts."""
        return self._engine

    @property
    def frame(self) -> DataFrame:
        """The DataFrame below; raises RuntimeError after `drop`."""
        if self._frame is None:
            raise RuntimeError("these records were dropped")
        return self._frame

    @property
    def n_parts(self) -> int:
        """Number of partitions. Runs a job if a DataFrame of the user was read; then the last ones may be empty."""
        if self._n_parts is None:
            self._n_parts = count_partitions(self.frame)
        return self._n_parts

    @property
    def n_bytes_read(self) -> int:
        """Bytes of the values that the tasks read."""
        values = _values_in(self._tasks)
        return sum(bytes_of(value.value if isinstance(value, SentRows) else value) for value in values)

    def apply(
        self,
        write: Callable[[int, Iterable[Any]], Iterator[pa.RecordBatch]],
        schema: StructType | str,
        parts: Sequence[int] | None = None,
    ) -> DataFrame:
        """The DataFrame that `write` makes of the results of the tasks on some or all parts. Lazy.

        Raises
        ------
        CapacityError    the code and the values in it do not fit a message of gRPC
        """
        chosen = None if parts is None else frozenset(parts)
        sent = list(dict.fromkeys(value for value in _values_in(self._tasks) if isinstance(value, SentRows)))
        source = self.with_marks() if sent else self
        work = partial(run_part, source._read, self._tasks, write, chosen, package_versions(), bool(sent))
        n_bytes = bytes_of(list(_values_in(work)))
        if n_bytes > _MOST_CODE_BYTES:
            raise CapacityError(
                f"the tasks read values of {n_bytes} bytes, but Spark Connect refuses messages above 128 MiB; use a "
                "lower rank or a classic Spark session"
            )
        frame = source.frame
        if chosen is not None and source._read is read_records:
            frame = frame.where(F.col("part").isin(*chosen))  # other rows stay out of Python
        if sent:
            pieces = reduce(DataFrame.unionByName, [value.frame for value in sent])
            is_mark = F.col("data").isNull() & (F.col("source") == 0)
            # The join keeps partitions and order. But Spark removes a sort below a join, unless a column that is not
            # deterministic is between them.
            frame = frame.withColumn("partition", F.spark_partition_id())
            frame = frame.join(F.broadcast(pieces), is_mark, "left")
        return frame.mapInArrow(work, schema)

    def with_marks(self) -> "ConnectParts[Any]":
        """The records before the tasks, in rows with marks; computed and kept if they are not yet."""
        if self._read is read_records:
            return self
        return ConnectParts(self.engine, self.frame, self._read, (), self._n_parts).keep()

    def map(self, task: Callable[[int, Iterable[Record]], Iterable[Result]]) -> "ConnectParts[Result]":
        """Replace the records of each part by the results of the task. Lazy; tasks in a row run as one."""
        tasks = (*self._tasks, task)
        return ConnectParts(self.engine, self.frame, self._read, tasks, self._n_parts, self._n_sources)

    def exchange(
        self, task: Callable[[int, Iterable[Record]], Iterable[tuple[int, Result]]], n_parts: int
    ) -> "ConnectParts[tuple[int, Result]]":
        """Send each (target, result) that the task yields to its partition, by one shuffle. Lazy."""
        sent = self.map(task)
        rows = sent.apply(partial(write_pairs, n_parts), RECORD_ROWS)
        # Partitions of a DataFrame of the user are not counted: another plan may have another number of them.
        n_sources = _MOST_PARTITIONS if self._n_parts is None else self._n_parts
        return ConnectParts(self.engine, _in_parts(rows, n_parts), read_records, (), n_parts, n_sources)

    def beside(self, other: "ConnectParts[Any]") -> "ConnectParts[Any]":  # type: ignore[override]
        """Put the records of each part before those of the same part of `other`, by one shuffle of both. Lazy.

        Spark Connect cannot join partitions of two DataFrames without a shuffle. It passes no rows through Python.
        """
        left, right = (parts if parts._read is read_records else parts.keep() for parts in (self, other))
        left, right = left._written(), right._written()
        n_left = left._n_sources
        later = right.frame.withColumn("source", F.col("source") + n_left)
        united = _in_parts(left.frame.unionByName(later), self.n_parts)
        return ConnectParts(
            self.engine, united, read_records, n_parts=self.n_parts, n_sources=n_left + right._n_sources
        )

    def zip(self, other: "ConnectParts[Result]") -> "ConnectParts[tuple[Record, Result]]":  # type: ignore[override]
        """Pair the records with those of `other`. Lazy."""
        return self.beside(other).map(_pair)

    def keep(self, storage: StorageLevel | None = None, *, is_only_copy: bool = False) -> "ConnectParts[Record]":
        """Compute the records now and keep them until nothing references these parts, or `drop`.

        The rows have no lineage: if an executor is lost, they are lost too, and the job fails. is_only_copy makes no
        difference but for a second copy.
        """
        level = _of_rows(self.engine.storage if storage is None else storage)
        if is_only_copy:
            level = StorageLevel(level.useDisk, level.useMemory, level.useOffHeap, level.deserialized, replication=2)
        written = self._written()
        with self.engine.explained():
            kept = written.frame.localCheckpoint(storageLevel=level)
        return ConnectParts(self.engine, kept, read_records, n_parts=self._n_parts, n_sources=written._n_sources)

    def compute(self) -> None:
        """Do nothing: `keep` has computed them."""

    def drop(self) -> None:
        """Free the rows: the server removes them when no plan of the client needs them."""
        self._frame = None  # type: ignore[assignment]

    def dropped_with(self, sent: Sent[Any]) -> "ConnectParts[Record]":  # noqa: ARG002
        """These parts: a value is freed with the plan."""
        return self

    def run(
        self, task: Callable[[int, Iterable[Record]], Iterable[Result]], parts: Sequence[int] | None = None
    ) -> list[Result]:
        """Run the task on some or all parts as one Spark job; return results in the order of the parts."""
        found: dict[int, list[Result]] = {}
        written = self.map(task).apply(write_records, RECORD_ROWS, parts)
        with self.engine.explained():
            rows = written.where(F.col("data").isNotNull()).toArrow()
        for part, record in records_of(rows.sort_by([(name, "ascending") for name in ("part", *PLACE)]).to_batches()):
            found.setdefault(part, []).append(record)
        return list(chain.from_iterable(found.get(part, []) for part in parts or sorted(found)))

    def reduce(self, merge: Callable[[Record, Record], Record]) -> Record | None:
        """Merge all records into one, in two steps on the executors if there are many parts; None if there is none."""
        merged: ConnectParts[Record] = self.map(partial(_merge, merge))
        if self.n_parts > _PARTS_MERGED_AT_ONCE:
            n_groups = math.isqrt(self.n_parts - 1) + 1
            gathered = merged.exchange(partial(_to_group, n_groups, self.n_parts), n_groups)
            merged = gathered.map(without_targets).map(partial(_merge, merge))
        records = merged.collect()
        return reduce(merge, records) if records else None

    def _written(self) -> "ConnectParts[Record]":
        """The same records, as rows in the frame."""
        if not self._tasks and self._read is read_records:
            return self
        return ConnectParts(self.engine, self.apply(write_records, RECORD_ROWS), read_records, n_parts=self._n_parts)


class _Counter:
    """Counts what is written to it."""

    n_bytes = 0

    def write(self, data: bytes) -> int:
        self.n_bytes += len(data)
        return len(data)

    def add(self, buffer: pickle.PickleBuffer) -> bool:
        """Count a buffer and keep it out of the pickle."""
        self.n_bytes += buffer.raw().nbytes
        return False


def bytes_of(value: Any) -> int:
    """Bytes of a pickled value."""
    counted = _Counter()
    pickle.Pickler(counted, protocol=5, buffer_callback=counted.add).dump(value)
    return counted.n_bytes


def _version(spark: SparkSession) -> tuple[int, ...]:
    return tuple(int(number) for number in spark.version.split(".")[:2])


def _of_rows(level: StorageLevel) -> StorageLevel:
    """The level for rows: in memory as they are, since they are bytes already, and Java would serialize them again."""
    deserialized = level.useMemory and not level.useOffHeap
    return StorageLevel(level.useDisk, level.useMemory, level.useOffHeap, deserialized, level.replication)


def _values_in(work: Any) -> Iterator[Any]:
    """The values in nested partials and tuples, without their functions, which may be local ones."""
    if isinstance(work, partial):
        yield from _values_in((*work.args, *work.keywords.values()))
    elif type(work) is tuple:
        for value in work:
            yield from _values_in(value)
    elif not callable(work):
        yield work


def _in_parts(rows: DataFrame, n_parts: int) -> DataFrame:
    """Rows with their part in the partition of this number, in the order of their places."""
    return rows.repartitionById(n_parts, "part").sortWithinPartitions(*PLACE)


def _pair(_: int, records: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Executor: the records of both sides, one side after the other."""
    arrived = list(records)
    half = len(arrived) // 2
    return zip(arrived[:half], arrived[half:], strict=True)


def _merge(merge: Callable[[Any, Any], Any], _: int, records: Iterable[Any]) -> Iterator[Any]:
    """Executor: the records of a part as one; none if there is none."""
    found = list(records)
    return iter([reduce(merge, found)] if found else [])


def _to_group(n_groups: int, n_parts: int, part: int, records: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Executor: neighboring parts get the same target."""
    return ((part * n_groups // n_parts, record) for record in records)
