"""The RDD engine: records on the executors, tasks in their Python workers, values broadcast.

Needs a classic Spark session: Spark Connect has no RDDs.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark import RDD, Broadcast, SparkContext, StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from mfspark.engine.arrow import read_batches, to_table
from mfspark.engine.engine import Engine, Parts, Record, Result, Sent
from mfspark.engine.failures import package_versions, require_packages, require_same_python
from mfspark.engine.jobs import named_jobs
from mfspark.engine.session import count_cores

# A value may take this share of an executor's memory, divided by its Python workers: each holds a copy.
_SENT_SHARE = 0.5
# What is collected has a little more bytes than the factors in it.
_RESULT_SHARE = 0.9
# Spark's least memory of a container beside the JVM.
_LEAST_OVERHEAD = 384 << 20


class BroadcastValue(Sent[Result]):
    """A value in a Spark broadcast; each Python worker unpickles a copy on first use."""

    def __init__(self, broadcast: "Broadcast[Result]") -> None:
        self._broadcast = broadcast

    @property
    def value(self) -> Result:
        """The value."""
        return self._broadcast.value

    def drop(self) -> None:
        """Remove it from the executors and the driver."""
        self._broadcast.destroy()

    def unpersist(self) -> None:
        """Remove it from the executors; Spark's cleaner removes the rest when nothing references it."""
        self._broadcast.unpersist()


class RddEngine(Engine):
    """Tasks on the executors of a classic Spark session.

    storage : storage level for `keep`
    """

    name = "rdd"

    def __init__(self, spark: SparkSession, storage: StorageLevel = StorageLevel.MEMORY_AND_DISK) -> None:
        self.spark, self.storage = spark, storage

    @property
    def context(self) -> SparkContext:
        """The Spark context of the session."""
        return self.spark.sparkContext

    @property
    def n_cores(self) -> int:
        """Number of tasks that run at the same time, according to Spark."""
        return count_cores(self.spark)

    @property
    def max_sent_bytes(self) -> int:
        """What each core's Python worker can hold a copy of, and the driver can collect.

        Half the memory of an executor's Python workers, divided by its cores; and no more than
        spark.driver.maxResultSize, since the driver collects the factors that it sends.
        """
        n_bytes = _SENT_SHARE * self._python_bytes() / self._cores_of_executor()
        max_result = self._bytes_of("spark.driver.maxResultSize", "1g")
        return int(n_bytes if max_result == 0 else min(n_bytes, _RESULT_SHARE * max_result))

    def _python_bytes(self) -> int:
        """Memory of an executor's Python workers together.

        spark.executor.pyspark.memory where it is set. Where the executor is a container, what it has beside the JVM;
        elsewhere nothing limits them, and they get as much as the JVM.
        """
        master = str(self.context.master)
        if master.startswith("local"):
            return self._bytes_of("spark.driver.memory", "1g")
        if self.context.getConf().contains("spark.executor.pyspark.memory"):
            return self._bytes_of("spark.executor.pyspark.memory", "0", unit="m")
        memory = self._bytes_of("spark.executor.memory", "1g")
        if master.startswith(("yarn", "k8s")):
            conf = self.context.getConf()
            factor = float(conf.get("spark.executor.memoryOverheadFactor", "0.1") or 0)
            default = f"{max(int(factor * memory), _LEAST_OVERHEAD) >> 20}m"
            return self._bytes_of("spark.executor.memoryOverhead", default, unit="m")
        return memory

    def _cores_of_executor(self) -> int:
        conf, master = self.context.getConf(), str(self.context.master)
        if master.startswith("local"):
            return self.n_cores
        if conf.contains("spark.executor.cores"):
            return int(conf.get("spark.executor.cores", "1") or 1)
        if not master.startswith("spark://"):
            return 1
        # On a standalone cluster an executor takes all cores of its worker.
        context: Any = self.context._jsc.sc()
        n_executors = max(int(context.getExecutorMemoryStatus().size()) - 1, 1)  # without the driver
        return -(-self.n_cores // n_executors)

    def _bytes_of(self, key: str, default: str, unit: str = "b") -> int:
        """A setting in bytes; a number without a unit has the one given."""
        text = str(self.context.getConf().get(key, default))
        jvm: Any = self.context._jvm
        return int(jvm.org.apache.spark.network.util.JavaUtils.byteStringAsBytes(text + unit * text.isdigit()))

    @contextmanager
    def same_python(self) -> Iterator[None]:
        """Raise ConfigError where a task fails because the executors run another Python."""
        try:
            yield
        except (PySparkException, Py4JJavaError) as error:
            require_same_python(error, self.context)
            raise

    def numbers(self, n_parts: int) -> "RddParts[int]":
        """Parts that hold their own number."""
        return RddParts(self, self.context.parallelize(range(n_parts), n_parts))

    def send(self, value: Result) -> BroadcastValue[Result]:
        """Broadcast a value."""
        return BroadcastValue(self.context.broadcast(value))

    def named(self, description: str) -> AbstractContextManager[None]:
        """Name the Spark jobs of this thread."""
        return named_jobs(self.spark, description)

    def read(self, table: DataFrame) -> "RddParts[pa.RecordBatch]":
        """The rows of a DataFrame in large Arrow batches. Lazy."""
        return RddParts(self, read_batches(table))

    def to_table(self, batches: "RddParts[pa.RecordBatch]", schema: StructType) -> DataFrame:  # type: ignore[override]
        """The DataFrame of these batches, with the names and types of the schema. Lazy."""
        return to_table(self.spark, batches.rdd, schema)


class RddParts(Parts[Record]):
    """Records in the partitions of an RDD.

    sent : values that Spark needs to compute lost records again
    """

    def __init__(self, engine: RddEngine, rdd: "RDD[Record]", sent: tuple[BroadcastValue[Any], ...] = ()) -> None:
        self._engine, self.rdd, self._sent = engine, rdd, sent

    @property
    def engine(self) -> RddEngine:
        """The engine that runs tasks on these parts."""
        return self._engine

    @property
    def n_parts(self) -> int:
        """Number of partitions."""
        return self.rdd.getNumPartitions()

    def map(self, task: Callable[[int, Iterable[Record]], Iterable[Result]]) -> "RddParts[Result]":
        """Replace the records of each partition by the results of the task. Lazy."""
        return RddParts(self.engine, self.rdd.mapPartitionsWithIndex(task, preservesPartitioning=True))

    def exchange(
        self, task: Callable[[int, Iterable[Record]], Iterable[tuple[int, Result]]], n_parts: int
    ) -> "RddParts[tuple[int, Result]]":
        """Send each (target, result) that the task yields to its partition, by one shuffle. Lazy.

        Spark can union the result with other RDDs partition by partition, without a second pass through Python. It does
        so if the partitioners and serializers are equal; the result of RDD.partitionBy has a serializer of another name
        for the same format.
        """
        arrived = self.rdd.mapPartitionsWithIndex(task).partitionBy(n_parts, int)
        arrived._jrdd_deserializer = arrived.ctx.serializer
        return RddParts(self.engine, arrived)

    def beside(self, other: "RddParts[Any]") -> "RddParts[Any]":  # type: ignore[override]
        """Put the records of each partition before those of the same partition of `other`. Lazy.

        Both must come from `exchange`, directly or through `map`.
        """
        united: RDD[Any] = self.rdd.union(other.rdd)
        assert united.getNumPartitions() == self.n_parts, "Spark united partitions one after the other"
        return RddParts(self.engine, united)

    def zip(self, other: "RddParts[Result]") -> "RddParts[tuple[Record, Result]]":  # type: ignore[override]
        """Pair the records with those of `other`. Lazy."""
        return RddParts(self.engine, self.rdd.zip(other.rdd))

    def keep(self, storage: StorageLevel | None = None, *, is_only_copy: bool = False) -> "RddParts[Record]":
        """Cache the records when they are first computed.

        is_only_copy also cuts the lineage; else each iteration would depend on all earlier ones.
        """
        level = self.engine.storage if storage is None else storage
        if is_only_copy:
            level = StorageLevel(level.useDisk, level.useMemory, level.useOffHeap, level.deserialized, replication=2)
        self.rdd.persist(level)
        if is_only_copy:
            self.rdd.localCheckpoint()
        return self

    def drop(self) -> None:
        """Remove the records from the cache; Spark computes them again if needed."""
        self.rdd.unpersist()
        for sent in self._sent:
            sent.unpersist()

    def dropped_with(self, sent: BroadcastValue[Any]) -> "RddParts[Record]":  # type: ignore[override]
        """These parts; `drop` also drops the value."""
        return RddParts(self.engine, self.rdd, (*self._sent, sent))

    def run(
        self, task: Callable[[int, Iterable[Record]], Iterable[Result]], parts: Sequence[int] | None = None
    ) -> list[Result]:
        """Run the task on some or all partitions as one Spark job; return results in the order of the partitions."""
        results: RDD[Result] = self.rdd.mapPartitionsWithIndex(partial(_in_worker, task, package_versions()))
        chosen = range(self.n_parts) if parts is None else parts
        with self.engine.same_python():
            return self.engine.context.runJob(results, _as_they_are, list(chosen))

    def reduce(self, merge: Callable[[Record, Record], Record]) -> Record | None:
        """Merge all records into one, as a tree on the executors; None if there is no record."""
        merged = partial(_merge, merge)
        with self.engine.same_python():
            found: Record | None = self.rdd.treeAggregate(None, merged, merged)
        return found


def _merge(merge: Callable[[Record, Record], Record], left: Record | None, right: Record | None) -> Record | None:
    """Executor: merge two records; either may be missing."""
    if left is None or right is None:
        return right if left is None else left
    return merge(left, right)


def _in_worker(
    task: Callable[[int, Iterable[Record]], Iterable[Result]],
    packages: dict[str, str],
    part: int,
    records: Iterable[Record],
) -> Iterable[Result]:
    """Executor: one task.

    packages : versions on the driver
    """
    # Spark's Python worker runs a full garbage collection after each task. It skips frozen objects (imported modules,
    # compiled kernels), which saves 20 to 50 ms.
    gc.freeze()
    require_packages(packages)
    return task(part, records)


def _as_they_are(results: Iterable[Result]) -> Iterable[Result]:
    return results
