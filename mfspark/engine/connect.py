"""The Connect engine: records on the executors of a Spark Connect server, as rows of binary.

Spark Connect has DataFrames, but no RDDs, no broadcasts and no JVM. So a record is pickled into rows, a part is a
partition of such rows, a task runs in mapInArrow, `repartitionById` exchanges records, and `localCheckpoint` keeps
them. A plan that starts from kept records is short, so the last iteration costs what the first one does. A value that
tasks read travels with their code.
"""

import gc
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial, reduce
from itertools import chain, islice
from typing import Any

import pyarrow as pa
from pyspark import StorageLevel, TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from mfspark.engine.arrow import arrow_schema
from mfspark.engine.engine import Engine, Held, Parts, Record, Result, Sent
from mfspark.engine.failures import package_versions, require_packages, require_shipped
from mfspark.engine.jobs import named_jobs
from mfspark.engine.session import count_cores, count_partitions
from mfspark.errors import CapacityError, ConfigError

_ROWS = "part int, source int, number int, chunk int, n_chunks int, data binary"
"""A record is n_chunks rows: their part, and the place of the record among those of the part: ascending in (source,
number). data is a piece of the pickled record. It is null in a row that marks the part: each part has one, since a task
cannot tell its part by the number of its partition, which another one has in a union."""
_COLUMNS = pa.schema(
    [*((name, pa.int32()) for name in ("part", "source", "number", "chunk", "n_chunks")), ("data", pa.binary())]
)
_PLACE = ("source", "number", "chunk")

# A row and a batch of rows have at most about so many bytes: gRPC refuses messages above 128 MiB, and a JVM array of
# gathered rows ends at 2 GiB.
_CHUNK_BYTES = 1 << 22
# gRPC's limit for the plan, which carries the tasks and the values that they read, less what the plan itself takes.
_MOST_CODE_BYTES = 120 << 20
# Two values of this size fit a plan: the factors of the fixed side, and those that a solver starts from.
_MOST_SENT_BYTES = _MOST_CODE_BYTES // 2 - (2 << 20)
# The client keeps the plan of a table and sends it with each query; a plan with larger code is computed at once.
_MOST_CODE_OF_TABLE = 4 << 20
# With more parts than this, records are first merged on the executors.
_PARTS_MERGED_AT_ONCE = 4

Task = Callable[[int, Iterable[Any]], Iterable[Any]]


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
        return ConnectParts(self, self._spark.range(0, n_parts, 1, n_parts), _read_numbers, n_parts=n_parts)

    def send(self, value: Result) -> Held[Result]:
        """Put a value into the code of the tasks that read it."""
        return Held(value)

    def named(self, description: str) -> AbstractContextManager[None]:
        """Tag the Spark jobs of this thread."""
        return named_jobs(self._spark, description)

    def read(self, table: DataFrame) -> "ConnectParts[pa.RecordBatch]":
        """The rows of a DataFrame in Arrow batches. Lazy."""
        return ConnectParts(self, table, partial(_read_batches, arrow_schema(table.schema, prefers_large_types=True)))

    def to_table(self, batches: "ConnectParts[pa.RecordBatch]", schema: StructType) -> DataFrame:  # type: ignore[override]
        """The DataFrame of these batches, with the names and types of the schema.

        Lazy, unless the tasks read large values: then the rows are computed now and kept until nothing references them.
        """
        work = batches.work(partial(_write_table, arrow_schema(schema)))
        table = batches.frame.mapInArrow(work, schema)
        if self.size_of(work) <= _MOST_CODE_OF_TABLE:
            return table
        with self.explained():
            return table.localCheckpoint(storageLevel=_of_rows(self.storage))

    def size_of(self, work: Any) -> int:
        """Bytes of the code that a plan carries.

        Raises
        ------
        CapacityError    too many for a message of gRPC
        """
        counted = _Counter()
        pickle.Pickler(counted, protocol=5, buffer_callback=counted.add).dump(_values_of(work))
        if counted.n_bytes > _MOST_CODE_BYTES:
            raise CapacityError(
                f"the tasks read values of {counted.n_bytes} bytes, but Spark Connect refuses messages above 128 MiB; "
                "use a lower rank, a classic Spark session or, for ALS with solver 'cholesky', a lower "
                "maxBroadcastBytes"
            )
        return counted.n_bytes

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise ConfigError where a task fails because the executors do not have mfspark or its packages."""
        try:
            yield
        except PySparkException as error:
            require_shipped(error)
            raise


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

    def work(self, write: Callable[[int, Iterable[Any]], Iterator[pa.RecordBatch]], chosen: Any = None) -> Any:
        """The function for mapInArrow: reads the records, runs the tasks and writes their results.

        chosen : the parts to run; None: all
        """
        return partial(_run, self._read, self._tasks, write, chosen, package_versions())

    def map(self, task: Callable[[int, Iterable[Record]], Iterable[Result]]) -> "ConnectParts[Result]":
        """Replace the records of each part by the results of the task. Lazy; tasks in a row run as one."""
        tasks = (*self._tasks, task)
        return ConnectParts(self.engine, self.frame, self._read, tasks, self._n_parts, self._n_sources)

    def exchange(
        self, task: Callable[[int, Iterable[Record]], Iterable[tuple[int, Result]]], n_parts: int
    ) -> "ConnectParts[tuple[int, Result]]":
        """Send each (target, result) that the task yields to its partition, by one shuffle. Lazy."""
        sent = self.map(task)
        work = sent.work(partial(_write_pairs, n_parts))
        self.engine.size_of(work)
        return ConnectParts(
            self.engine,
            _in_parts(sent.frame.mapInArrow(work, _ROWS), n_parts),
            _read_records,
            (),
            n_parts,
            self.n_parts,
        )

    def beside(self, other: "ConnectParts[Any]") -> "ConnectParts[Any]":  # type: ignore[override]
        """Put the records of each part before those of the same part of `other`, by one shuffle of both. Lazy.

        Spark Connect cannot join partitions of two DataFrames without a shuffle. It passes no rows through Python.
        """
        left, right = (parts if parts._read is _read_records else parts.keep() for parts in (self, other))
        left, right = left._written(), right._written()
        n_left = left._n_sources
        later = right.frame.withColumn("source", F.col("source") + n_left)
        united = _in_parts(left.frame.unionByName(later), self.n_parts)
        return ConnectParts(
            self.engine, united, _read_records, n_parts=self.n_parts, n_sources=n_left + right._n_sources
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
        return ConnectParts(self.engine, kept, _read_records, n_parts=self._n_parts, n_sources=written._n_sources)

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
        chosen = None if parts is None else frozenset(parts)
        found: dict[int, list[Result]] = {}
        written = self.map(task)._written(chosen).frame
        with self.engine.explained():
            rows = written.where(F.col("data").isNotNull()).toArrow()
        for part, record in _records(rows.sort_by([(name, "ascending") for name in ("part", *_PLACE)]).to_batches()):
            found.setdefault(part, []).append(record)
        return list(chain.from_iterable(found.get(part, []) for part in parts or sorted(found)))

    def reduce(self, merge: Callable[[Record, Record], Record]) -> Record | None:
        """Merge all records into one, in two steps on the executors if there are many parts; None if there is none."""
        merged: ConnectParts[Record] = self.map(partial(_merge, merge))
        if self.n_parts > _PARTS_MERGED_AT_ONCE:
            n_groups = math.isqrt(self.n_parts - 1) + 1
            gathered = merged.exchange(partial(_to_group, n_groups, self.n_parts), n_groups)
            merged = gathered.map(_values).map(partial(_merge, merge))
        records = merged.collect()
        return reduce(merge, records) if records else None

    def _written(self, chosen: Any = None) -> "ConnectParts[Record]":
        """The same records, as rows in the frame."""
        if not self._tasks and self._read is _read_records:
            return self
        work = self.work(_write_records, chosen)
        self.engine.size_of(work)
        frame = self.frame
        if chosen is not None and self._read is _read_records:
            frame = frame.where(F.col("part").isin(*chosen))  # other rows stay out of Python
        return ConnectParts(self.engine, frame.mapInArrow(work, _ROWS), _read_records, n_parts=self._n_parts)


def _version(spark: SparkSession) -> tuple[int, ...]:
    return tuple(int(number) for number in spark.version.split(".")[:2])


def _of_rows(level: StorageLevel) -> StorageLevel:
    """The level for rows: in memory as they are, since they are bytes already, and Java would serialize them again."""
    deserialized = level.useMemory and not level.useOffHeap
    return StorageLevel(level.useDisk, level.useMemory, level.useOffHeap, deserialized, level.replication)


def _values_of(work: Any) -> Any:
    """The values in nested partials, without their functions, which may be local ones."""
    if isinstance(work, partial):
        return [_values_of(value) for value in (*work.args, *work.keywords.values())]
    if isinstance(work, tuple) and type(work) is tuple:
        return [_values_of(value) for value in work]
    return None if callable(work) else work


def _in_parts(rows: DataFrame, n_parts: int) -> DataFrame:
    """Rows with their part in the partition of this number, in the order of their places."""
    return rows.repartitionById(n_parts, "part").sortWithinPartitions(*_PLACE)


def _run(
    read: Callable[[Iterable[pa.RecordBatch]], Iterable[Any]],
    tasks: tuple[Task, ...],
    write: Callable[[int, Iterable[Any]], Iterator[pa.RecordBatch]],
    chosen: Any,
    packages: dict[str, str],
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Executor: one partition.

    packages : versions on the client
    """
    gc.freeze()  # as in the RDD engine
    require_packages(packages)
    batches = iter(batches)
    first = list(islice(batches, 1))
    part = _part_of(first) if read is _read_records else TaskContext.get().partitionId()  # type: ignore[union-attr]
    if part is not None and (chosen is None or part in chosen):
        records: Iterable[Any] = read(chain(first, batches))
        for task in tasks:
            records = task(part, records)
        yield from write(part, records)
    for _batch in batches:
        pass  # Spark does not reuse a worker that leaves input unread


def _part_of(first: list[pa.RecordBatch]) -> int | None:
    """The part of these rows; None if there are none, because other parts were chosen."""
    return first[0]["part"][0].as_py() if first else None


def _read_numbers(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    for batch in batches:
        yield from batch.column(0).to_pylist()


def _read_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch.cast(schema) for batch in batches)


def _read_records(batches: Iterable[pa.RecordBatch]) -> Iterator[Any]:
    return (record for _part, record in _records(batches))


def _records(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Any]]:
    """Each record with its part; the rows of a record follow each other."""
    gathered: list[bytes] = []
    for batch in batches:
        for row in range(batch.num_rows):
            data = batch["data"][row]
            if data.is_valid:
                gathered.append(data.as_buffer())
                if len(gathered) == batch["n_chunks"][row].as_py():
                    joined = gathered[0] if len(gathered) == 1 else b"".join(gathered)
                    gathered = []
                    yield batch["part"][row].as_py(), pickle.loads(joined)


def _write_records(part: int, records: Iterable[Any]) -> Iterator[pa.RecordBatch]:
    yield _marks([part])
    yield from _rows((part, 0, record) for record in records)


def _write_pairs(n_parts: int, source: int, pairs: Iterable[tuple[int, Any]]) -> Iterator[pa.RecordBatch]:
    """Rows of (target, record); the first source also marks each target."""
    if source == 0:
        yield _marks(list(range(n_parts)))
    yield from _rows((pair[0], source, pair) for pair in pairs)


def _marks(parts: list[int]) -> pa.RecordBatch:
    return _batch_of([parts, *([0] * len(parts) for _ in _PLACE), [1] * len(parts), [None] * len(parts)])


def _rows(records: Iterable[tuple[int, int, Any]]) -> Iterator[pa.RecordBatch]:
    """Batches of the rows of (part, source, record)."""
    columns: list[list[Any]] = [[] for _ in _COLUMNS]
    n_bytes = 0
    for number, (part, source, record) in enumerate(records):
        data = memoryview(pickle.dumps(record, protocol=5))
        n_chunks = max(1, -(-len(data) // _CHUNK_BYTES))
        for chunk in range(n_chunks):
            piece = data[chunk * _CHUNK_BYTES : (chunk + 1) * _CHUNK_BYTES]
            for column, value in zip(columns, (part, source, number, chunk, n_chunks, piece), strict=True):
                column.append(value)
            n_bytes += len(piece)
            if n_bytes >= _CHUNK_BYTES:
                yield _batch_of(columns)
                columns, n_bytes = [[] for _ in _COLUMNS], 0
    if columns[0]:
        yield _batch_of(columns)


def _batch_of(columns: list[list[Any]]) -> pa.RecordBatch:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _COLUMNS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_COLUMNS)


def _write_table(schema: pa.Schema, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch.cast(schema) for batch in batches)


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


def _values(_: int, pairs: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    return (value for _target, value in pairs)
