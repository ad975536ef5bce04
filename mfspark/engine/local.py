"""The local engine: records in the driver's memory, tasks on its threads.

The kernels release Python's global lock, so threads use all cores. Tasks do not use the JVM: the session only reads
and makes DataFrames.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from mfspark.engine.arrow import collect_batches, local_table
from mfspark.engine.engine import Engine, Held, Parts, Record, Result, Sent

# Minimum rows of a part: fewer are not worth a thread.
_ROWS_IN_PART = 1 << 16


def _count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalEngine(Engine):
    """Tasks on threads of the driver; on Spark Connect, of the client.

    spark : only to read and make DataFrames
    n_cores : number of threads; None: the number of cores that this process may use
    """

    name = "local"

    def __init__(self, spark: SparkSession | None = None, n_cores: int | None = None) -> None:
        self._spark = spark
        self._n_cores = _count_cores() if n_cores is None else n_cores

    @property
    def n_cores(self) -> int:
        """Number of threads."""
        return self._n_cores

    @property
    def max_sent_bytes(self) -> int:
        """No limit: values are not copied."""
        return sys.maxsize

    def numbers(self, n_parts: int) -> "LocalParts[int]":
        """Parts that hold their own number."""
        return LocalParts(self, [[part] for part in range(n_parts)])

    def send(self, value: Result) -> Held[Result]:
        """Make a value readable for every task."""
        return Held(value)

    def named(self, description: str) -> AbstractContextManager[None]:  # noqa: ARG002  # no user interface shows it
        """Do nothing: there are no Spark jobs."""
        return nullcontext()

    def read(self, table: DataFrame) -> "LocalParts[pa.RecordBatch]":
        """The rows of a DataFrame in large Arrow batches. Runs one Spark job."""
        return self.parts_of(collect_batches(table))

    def parts_of(self, batches: list[pa.RecordBatch]) -> "LocalParts[pa.RecordBatch]":
        """Batches in one part per thread, or fewer if there are few rows; keeps the order."""
        n_rows = sum(batch.num_rows for batch in batches)
        n_parts = max(1, min(self.n_cores, len(batches), -(-n_rows // _ROWS_IN_PART)))
        parts: list[list[pa.RecordBatch]] = [[] for _ in range(n_parts)]
        n_before = 0
        for batch in batches:
            parts[min(n_before * n_parts // max(n_rows, 1), n_parts - 1)].append(batch)
            n_before += batch.num_rows
        return LocalParts(self, parts)

    def to_table(self, batches: "LocalParts[pa.RecordBatch]", schema: StructType) -> DataFrame:  # type: ignore[override]
        """The DataFrame of these batches, with the names and types of the schema."""
        assert self._spark is not None
        return local_table(self._spark, batches.records, schema)


class LocalParts(Parts[Record]):
    """Lists of records. `map` and `exchange` compute their results at once."""

    def __init__(self, engine: LocalEngine, parts: list[list[Record]]) -> None:
        self._engine, self.parts = engine, parts

    @property
    def engine(self) -> LocalEngine:
        """The engine that runs tasks on these parts."""
        return self._engine

    @property
    def records(self) -> list[Record]:
        """The records of all parts, in order."""
        return [record for part in self.parts for record in part]

    @property
    def n_parts(self) -> int:
        """Number of parts."""
        return len(self.parts)

    def in_one_part(self) -> "LocalParts[Record]":
        """All records in one part."""
        return LocalParts(self.engine, [self.records])

    def map(self, task: Callable[[int, Iterable[Record]], Iterable[Result]]) -> "LocalParts[Result]":
        """Replace the records of each part by the results of the task."""
        return LocalParts(self.engine, self._results(task, range(self.n_parts)))

    def exchange(
        self, task: Callable[[int, Iterable[Record]], Iterable[tuple[int, Result]]], n_parts: int
    ) -> "LocalParts[tuple[int, Result]]":
        """Move each (target, result) that the task yields to the list of its target."""
        parts: list[list[tuple[int, Result]]] = [[] for _ in range(n_parts)]
        for pairs in self._results(task, range(self.n_parts)):
            for pair in pairs:
                parts[pair[0]].append(pair)
        return LocalParts(self.engine, parts)

    def beside(self, other: "LocalParts[Any]") -> "LocalParts[Any]":  # type: ignore[override]
        """Put the records of each part before those of the same part of `other`."""
        return LocalParts(self.engine, [[*own, *others] for own, others in zip(self.parts, other.parts, strict=True)])

    def zip(self, other: "LocalParts[Result]") -> "LocalParts[tuple[Record, Result]]":  # type: ignore[override]
        """Pair the records with those of `other`."""
        pairs = zip(self.parts, other.parts, strict=True)
        return LocalParts(self.engine, [list(zip(own, others, strict=True)) for own, others in pairs])

    def keep(
        self,
        storage: StorageLevel | None = None,  # noqa: ARG002
        *,
        is_only_copy: bool = False,  # noqa: ARG002
    ) -> "LocalParts[Record]":
        """These parts; they are already in memory."""
        return self

    def drop(self) -> None:
        """Do nothing: Python frees the records with the last reference."""

    def dropped_with(self, sent: Sent[Any]) -> "LocalParts[Record]":  # noqa: ARG002
        """These parts."""
        return self

    def run(
        self, task: Callable[[int, Iterable[Record]], Iterable[Result]], parts: Sequence[int] | None = None
    ) -> list[Result]:
        """Run the task on some or all parts and return the results in the order of the parts."""
        found = self._results(task, range(self.n_parts) if parts is None else parts)
        return [result for results in found for result in results]

    def reduce(self, merge: Callable[[Record, Record], Record]) -> Record | None:
        """Merge all records into one; None if there is no record."""
        return reduce(merge, self.records) if self.records else None

    def _results(
        self, task: Callable[[int, Iterable[Record]], Iterable[Result]], parts: Sequence[int]
    ) -> list[list[Result]]:
        def results_of(part: int) -> list[Result]:
            with np.errstate(all="ignore"):  # tasks report rows that overflow; executors show no warnings either
                return list(task(part, iter(self.parts[part])))

        n_threads = min(self.engine.n_cores, len(parts))
        if n_threads <= 1:
            return [results_of(part) for part in parts]
        with ThreadPoolExecutor(n_threads, thread_name_prefix="mfspark") as threads:
            return list(_in_order(threads, results_of, parts))


def _in_order(
    threads: ThreadPoolExecutor, work: Callable[[int], list[Result]], parts: Sequence[int]
) -> Iterator[list[Result]]:
    """The results in the order of the parts; after a failure no further part starts."""
    try:
        yield from threads.map(work, parts)
    except BaseException:
        threads.shutdown(wait=True, cancel_futures=True)
        raise
