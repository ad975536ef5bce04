"""The engine: how work reaches the cores.

Training and serving need little of Spark: keep records where they are, run a function on each part and collect the
results, exchange pieces between parts, send a value to all tasks, and name the work. `Engine` and `Parts` are these few
methods. What runs is always a named module-level function of plain arrays, so every engine computes the same bytes:

- `local.LocalEngine`: records in the driver's memory, tasks on its threads;
- `rdd.RddEngine`: records in RDDs on the executors, values broadcast.
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
        """Free its copies. A task that would be run again after this fails."""


class Parts(ABC, Generic[Record]):
    """Records in numbered parts, which stay where they are. A task gets (number of the part, records of the part)."""

    @property
    @abstractmethod
    def engine(self) -> "Engine":
        """Where the parts are."""

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
        """Send each (target, result) that the task yields to part `target` of n_parts, where it arrives as this pair.

        Pairs arrive in any order.
        """

    @abstractmethod
    def beside(self, other: "Parts[Any]") -> "Parts[Any]":
        """Put the records of each part before those of the same part of `other`, which must have as many parts."""

    @abstractmethod
    def zip(self, other: "Parts[Result]") -> "Parts[tuple[Record, Result]]":
        """Pair the records with those of `other`, which must have the same number of records in each part."""

    @abstractmethod
    def keep(self, storage: StorageLevel | None = None, *, is_only_copy: bool = False) -> "Parts[Record]":
        """Compute the records once and keep them until `drop`.

        storage : where Spark keeps them; the engine's own level where it is None
        is_only_copy : whether they cannot be computed again, so that a second executor keeps a copy
        """

    @abstractmethod
    def drop(self) -> None:
        """Free the records that `keep` has kept, and the values that they were computed with."""

    @abstractmethod
    def dropped_with(self, sent: Sent[Any]) -> "Parts[Record]":
        """These parts; `drop` drops the value too."""

    @abstractmethod
    def run(
        self, task: Callable[[int, Iterable[Record]], Iterable[Result]], parts: Sequence[int] | None = None
    ) -> list[Result]:
        """Run the task on some parts, or on all, and return the results in the order of the parts, on the driver."""

    @abstractmethod
    def reduce(self, merge: Callable[[Record, Record], Record]) -> Record | None:
        """Merge all records into one, on the driver; None where there is no record. The merge must be associative."""


class Engine(ABC):
    """Where work is done."""

    name: ClassVar[Literal["local", "rdd"]]

    @property
    @abstractmethod
    def n_cores(self) -> int:
        """Number of tasks that run at the same time."""

    @property
    @abstractmethod
    def max_sent_bytes(self) -> int:
        """Largest value that each core can be sent a copy of."""

    @abstractmethod
    def numbers(self, n_parts: int) -> Parts[int]:
        """Parts that hold their own number."""

    @abstractmethod
    def send(self, value: Result) -> Sent[Result]:
        """Make a value readable for every task."""

    @abstractmethod
    def named(self, description: str) -> AbstractContextManager[None]:
        """Name the work that this thread starts, as the Spark UI shows it."""

    @abstractmethod
    def read(self, table: DataFrame) -> Parts[pa.RecordBatch]:
        """The rows of a DataFrame in large Arrow batches."""

    @abstractmethod
    def to_table(self, batches: Parts[pa.RecordBatch], schema: StructType) -> DataFrame:
        """The DataFrame of these batches, with the names and types of the schema."""
