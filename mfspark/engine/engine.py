"""The engine: runs work on the cores.

Training and serving need a few operations: keep records in place, run a function on each part and collect the results,
exchange pieces between parts, send a value to all tasks, and name the work. `Engine` and `Parts` declare these methods.
A task is always a module-level function of plain arrays, so every engine computes the same bytes:

- `local.LocalEngine`: records in the memory of this process (the driver, or a client of Spark Connect), tasks on its
  threads;
- `rdd.RddEngine`: records in RDDs on the executors, values broadcast;
- `connect.ConnectEngine`: records in DataFrames on the executors of a Spark Connect server, values sent with the code.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

Record = TypeVar("Record")
Result = TypeVar("Result")
Value_co = TypeVar("Value_co", covariant=True)


class Sent(ABC, Generic[Value_co]):
    """A value that every task can read."""

    @property
    @abstractmethod
    def value(self) -> Value_co:
        """The value; tasks must not change it."""

    @abstractmethod
    def drop(self) -> None:
        """Free its copies. A task that runs again after this fails."""


class Held(Sent[Value_co]):
    """A value that tasks refer to: threads share it, and code that is sent elsewhere takes it along."""

    def __init__(self, value: Value_co) -> None:
        self._value = value

    @property
    def value(self) -> Value_co:
        """The value itself."""
        return self._value

    def drop(self) -> None:
        """Do nothing: it is freed with the last reference, or with the plan that took it along."""


class Parts(ABC, Generic[Record]):
    """Records in numbered parts, which do not move. A task gets (number of the part, records of the part)."""

    @property
    @abstractmethod
    def engine(self) -> "Engine":
        """The engine that holds the parts."""

    @property
    @abstractmethod
    def n_parts(self) -> int:
        """Number of parts; some may be empty."""

    @abstractmethod
    def map(self, task: Callable[[int, Iterable[Record]], Iterable[Result]]) -> "Parts[Result]":
        """Replace the records of each part by the results of the task. Lazy on Spark."""

    @abstractmethod
    def exchange(
        self, task: Callable[[int, Iterable[Record]], Iterable[tuple[int, Result]]], n_parts: int
    ) -> "Parts[tuple[int, Result]]":
        """Send each (target, result) that the task yields to part `target` of n_parts, as the same pair.

        Pairs arrive in any order.
        """

    @abstractmethod
    def beside(self, other: "Parts[Any]") -> "Parts[Any]":
        """Put the records of each part before the same part of `other`, which must have the same number of parts."""

    @abstractmethod
    def zip(self, other: "Parts[Result]") -> "Parts[tuple[Record, Result]]":
        """Pair the records with those of `other`, which must have the same number of records in each part."""

    @abstractmethod
    def keep(self, storage: StorageLevel | None = None, *, is_only_copy: bool = False) -> "Parts[Record]":
        """Compute the records once and keep them until `drop`.

        storage : Spark's storage level; None: the engine's own level
        is_only_copy : whether they cannot be computed again; then a second executor keeps a copy
        """

    @abstractmethod
    def drop(self) -> None:
        """Free the records that `keep` kept, and the values that they were computed from."""

    @abstractmethod
    def dropped_with(self, sent: Sent[Any]) -> "Parts[Record]":
        """These parts; `drop` also drops the value."""

    @abstractmethod
    def run(
        self, task: Callable[[int, Iterable[Record]], Iterable[Result]], parts: Sequence[int] | None = None
    ) -> list[Result]:
        """Run the task on some or all parts and return the results on the driver, in the order of the parts."""

    def compute(self) -> None:
        """Compute now what `keep` keeps."""
        self.run(_nothing)

    def collect(self, parts: Sequence[int] | None = None) -> list[Record]:
        """The records of some or all parts, on the driver, in the order of the parts."""
        return self.run(as_they_are, parts)

    @abstractmethod
    def reduce(self, merge: Callable[[Record, Record], Record]) -> Record | None:
        """Merge all records into one, on the driver; None if there is no record. The merge must be associative."""


def as_they_are(_: int, records: Iterable[Record]) -> Iterable[Record]:
    """A task that returns its records."""
    return records


def without_targets(_: int, pairs: Iterable[tuple[int, Record]]) -> Iterable[Record]:
    """A task that returns what an exchange brought, without its targets."""
    return (record for _target, record in pairs)


def _nothing(_: int, records: Iterable[Any]) -> Iterable[Any]:
    for _record in records:
        pass
    return ()


class Engine(ABC):
    """Runs tasks: on the driver's threads or on the executors."""

    name: ClassVar[Literal["local", "rdd", "connect"]]

    @property
    @abstractmethod
    def n_cores(self) -> int:
        """Number of tasks that run at the same time."""

    @property
    @abstractmethod
    def max_sent_bytes(self) -> int:
        """Largest value in bytes that can be sent to every core."""

    @abstractmethod
    def numbers(self, n_parts: int) -> Parts[int]:
        """Parts that hold their own number."""

    @abstractmethod
    def send(self, value: Result) -> Sent[Result]:
        """Make a value readable for every task."""

    @abstractmethod
    def named(self, description: str) -> AbstractContextManager[None]:
        """Name the work that this thread starts, for the Spark UI."""

    @abstractmethod
    def read(self, table: DataFrame) -> Parts[pa.RecordBatch]:
        """The rows of a DataFrame in large Arrow batches."""

    @abstractmethod
    def to_table(self, batches: Parts[pa.RecordBatch], schema: StructType) -> DataFrame:
        """The DataFrame of these batches, with the names and types of the schema."""
