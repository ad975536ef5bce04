"""Factor tables: factor matrices to tables by raw id, and back."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, FloatType, StructField, StructType

from mfspark.blocks.index import whole_ids
from mfspark.engine.arrow import arrow_schema
from mfspark.engine.choice import read_where_it_fits
from mfspark.engine.engine import Engine, Parts, Sent
from mfspark.engine.local import LocalParts
from mfspark.training.exchange import Factors, WideFactors, gather_rows

# Rows in one batch: 2.5 MB at rank 64.
_ROWS_IN_BATCH = 10_000


_WANTED = "__mfspark_wanted"


class FactorTable:
    """Factors by raw id, as a DataFrame and as Arrow batches; each is made from the other on first use.

    Give either `table`, or `batches` with their schema.
    """

    def __init__(
        self,
        table: DataFrame | None = None,
        batches: Parts[pa.RecordBatch] | None = None,
        schema: StructType | None = None,
    ) -> None:
        self._table, self._batches, self._schema = table, batches, schema

    @classmethod
    def of(cls, table: DataFrame) -> "FactorTable":
        """A stored table: id, features array<float>, optionally bias float, any other columns."""
        return cls(table.select("id", "features", *[name for name in table.columns if name == "bias"]))

    @property
    def table(self) -> DataFrame:
        """Id (the input's type), features array<float>; bias float, if there are biases."""
        if self._table is None:
            assert self._batches is not None
            assert self._schema is not None
            self._table = self._batches.engine.to_table(self._batches, self._schema)
        return self._table

    @property
    def batches(self) -> Parts[pa.RecordBatch]:
        """The same rows; no nulls. A small table is read into the driver's memory."""
        if self._batches is None:
            assert self._table is not None
            self._batches = read_where_it_fits(self._table)
        return self._batches

    @property
    def id_type(self) -> DataType:
        """Type of the raw ids."""
        return self._fields["id"].dataType

    @property
    def has_biases(self) -> bool:
        """Whether there is a column of biases."""
        return "bias" in self._fields.names

    @property
    def _fields(self) -> StructType:
        if self._schema is not None:
            return self._schema
        assert self._table is not None
        return self._table.schema

    @property
    def n_local_rows(self) -> int | None:
        """Number of rows if they are in the driver's memory, else None."""
        batches = self.batches
        return sum(batch.num_rows for batch in batches.records) if isinstance(batches, LocalParts) else None

    def on(self, engine: Engine) -> Parts[pa.RecordBatch]:
        """The rows as parts of this engine."""
        return self.batches if self.batches.engine.name == engine.name else engine.read(self.table)

    def with_batches(self, batches: Parts[pa.RecordBatch]) -> "FactorTable":
        """The same rows, from these batches."""
        return FactorTable(batches=batches, schema=self._fields)

    def only(self, ids: DataFrame) -> "FactorTable":
        """The rows with one of these ids (column id, of the type of its own)."""
        return FactorTable.of(
            self.table.join(ids.withColumnRenamed("id", _WANTED), F.col("id") == F.col(_WANTED), "left_semi")
        )

    def without(self, ids: DataFrame) -> "FactorTable":
        """The rows with none of these ids (column id, of the type of its own)."""
        return FactorTable.of(
            self.table.join(ids.withColumnRenamed("id", _WANTED), F.col("id") == F.col(_WANTED), "left_anti")
        )

    def with_own_spelling(self, table: DataFrame, name: str) -> DataFrame:
        """The rows of a table with an id that is here, spelled as it is here."""
        own = self.table.select(F.col("id").alias(_WANTED))
        return table.join(own, F.col(name) == F.col(_WANTED)).withColumn(name, F.col(_WANTED)).drop(_WANTED)

    def collect(self, parts: Sequence[int] | None = None) -> tuple[pa.Array, Factors]:
        """Ids in ascending order and their factors (see `factor_matrix`), of some or all parts, on the driver."""
        batches = self.batches.collect(parts)
        if not batches:
            batches = [pa.RecordBatch.from_pylist([], arrow_schema(self._fields))]
        ordered = pa.Table.from_batches(batches).sort_by("id").combine_chunks()
        (rows,) = ordered.to_batches() or batches[:1]
        return rows["id"], factor_matrix(rows)


def factor_table(engine: Engine, ids: pa.Array, factors: Factors, rank: int, id_type: DataType) -> FactorTable:
    """Give every row of a factor matrix its raw id.

    Parameters
    ----------
    ids : n_ids raw ids, in the order of the rows; see `whole_ids` for those of a floating-point column
    factors : float32[n_ids, n_columns], on the driver; a column after the rank is the bias
    id_type : type of the column that the ids come from

    Returns
    -------
    FactorTable    in the order of the rows

    The table does not need the ratings or the blocks of training. On Spark each task takes its rows from a broadcast;
    Spark's cleaner removes it when nothing references the table.
    """
    ids, id_type = whole_ids(ids, id_type)
    sent = engine.send((ids, factors))
    n_parts = engine.n_cores
    bounds = np.linspace(0, len(ids), n_parts + 1).astype(int)
    batches = engine.numbers(n_parts).map(partial(_read_rows, sent, rank, bounds))
    return FactorTable(batches=batches, schema=_schema(id_type, has_biases=factors.shape[1] > rank))


def wide_factor_table(
    ids: Parts[pa.Array], factors: WideFactors, id_type: DataType, storage: StorageLevel
) -> FactorTable:
    """Give every row of a wide side its raw id, block by block.

    Parameters
    ----------
    ids : part p has the ids of block p
    storage : storage level of the rows; they are computed when this returns

    Returns
    -------
    FactorTable    in the order of the rows; Spark computes lost rows again from the ratings, or keeps them on two
                   executors if it cannot
    """
    joined = ids.beside(factors.parts).map(partial(_join_ids, factors.rank, factors.scale))
    batches = joined.keep(storage, is_only_copy=factors.is_only_copy)
    has_biases = any(batches.run(_have_biases))
    return FactorTable(batches=batches, schema=_schema(id_type, has_biases=has_biases))


def _have_biases(_: int, batches: Iterable[pa.RecordBatch]) -> Iterator[bool]:
    """Executor: whether each batch has a column of biases."""
    return ("bias" in batch.schema.names for batch in batches)


def _schema(id_type: DataType, *, has_biases: bool) -> StructType:
    fields = [StructField("id", id_type), StructField("features", ArrayType(FloatType()))]
    return StructType([*fields, StructField("bias", FloatType())] if has_biases else fields)


def _join_ids(rank: int, scale: float, _: int, records: Iterable[Any]) -> Iterator[pa.RecordBatch]:
    """Executor: the ids and factors of one block in; its rows of the table out."""
    ids, *parts = records
    if parts:
        yield from _batches(ids, gather_rows(parts, rank, scale), rank)


def factor_matrix(rows: pa.RecordBatch) -> Factors:
    """The factors of some rows as a matrix; the last column has their biases, if any."""
    values: Factors = rows["features"].flatten().to_numpy()
    factors = values.reshape(rows.num_rows, -1) if rows.num_rows else values.reshape(0, 0)
    return np.column_stack([factors, rows["bias"].to_numpy()]) if "bias" in rows.schema.names else factors


def _read_rows(
    sent: Sent[tuple[pa.Array, Factors]], rank: int, bounds: NDArray[np.int64], _: int, numbers: Iterable[int]
) -> Iterator[pa.RecordBatch]:
    """Executor: part numbers in; their rows of the table out."""
    ids, factors = sent.value
    for number in numbers:
        rows = slice(bounds[number], bounds[number + 1])
        yield from _batches(ids[rows], factors[rows], rank)


def _batches(ids: pa.Array, factors: Factors, rank: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(ids), _ROWS_IN_BATCH):
        rows = slice(start, start + _ROWS_IN_BATCH)
        batch = factor_rows(ids[rows], factors[rows, :rank])
        if factors.shape[1] > rank:
            batch = batch.append_column("bias", pa.array(factors[rows, rank]))
        yield batch


def factor_rows(ids: pa.Array, factors: Factors) -> pa.RecordBatch:
    """id, features: float32[n_ids, rank]."""
    offsets = pa.array(np.arange(len(factors) + 1, dtype=np.int32) * factors.shape[1])
    features = pa.ListArray.from_arrays(offsets, pa.array(factors.ravel()))
    return pa.RecordBatch.from_arrays([ids, features], names=["id", "features"])
