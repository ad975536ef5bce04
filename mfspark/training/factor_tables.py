"""Publish: factor matrices to tables by raw id."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import RDD, Broadcast, StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import ArrayType, DataType, FloatType, StructField, StructType

from mfspark.engine.arrow import arrow_schema, read_batches, to_table
from mfspark.training.exchange import Factors, WideFactors, gather_rows

# Rows in one batch: 2.5 MB at rank 64.
_ROWS_IN_BATCH = 10_000


_WANTED = "__mfspark_wanted"


@dataclass(frozen=True)
class FactorTable:
    """Factors by raw id, for SQL and for functions on arrays alike: neither way leads through the other."""

    table: DataFrame
    """id (the input's type), features array<float>; bias float, where there are biases."""
    batches: RDD[pa.RecordBatch]
    """The same rows; no nulls."""

    @classmethod
    def of(cls, table: DataFrame) -> "FactorTable":
        """What was stored before: id, features array<float>, bias float or none, any other columns."""
        selected = table.select("id", "features", *[name for name in table.columns if name == "bias"])
        return cls(selected, read_batches(selected))

    def only(self, ids: DataFrame) -> "FactorTable":
        """The rows with one of these ids (column id)."""
        return FactorTable.of(
            self.table.join(ids.withColumnRenamed("id", _WANTED), F.col("id") == F.col(_WANTED), "left_semi")
        )

    def without(self, ids: DataFrame) -> "FactorTable":
        """The rows with none of these ids (column id)."""
        return FactorTable.of(
            self.table.join(ids.withColumnRenamed("id", _WANTED), F.col("id") == F.col(_WANTED), "left_anti")
        )

    def missing(self, ids: DataFrame) -> DataFrame:
        """Those of these ids (column id) that have no factors."""
        known = self.table.select(F.col("id").alias(_WANTED))
        return ids.join(known, F.col("id") == F.col(_WANTED), "left_anti")

    def collect(self) -> tuple[pa.Array, Factors]:
        """Ids in ascending order, and their factors as by `factor_matrix`, on the driver."""
        batches = self.batches.collect()
        if not batches:
            batches = [pa.RecordBatch.from_pylist([], arrow_schema(self.table.sparkSession, self.table.schema))]
        ordered = pa.Table.from_batches(batches).sort_by("id").combine_chunks()
        (rows,) = ordered.to_batches() or batches[:1]
        return rows["id"], factor_matrix(rows)


def factor_table(spark: SparkSession, ids: pa.Array, factors: Factors, rank: int) -> FactorTable:
    """Give every row of a factor matrix its raw id.

    Parameters
    ----------
    ids : n_ids raw ids, in the order of the rows
    factors : float32[n_ids, n_columns], on the driver; a column behind the rank is the bias

    Returns
    -------
    FactorTable    in the order of the rows

    The table needs neither the ratings nor the caches of training: each task takes its rows out of a broadcast, which
    Spark's cleaner removes when the table is no longer referenced.
    """
    context = spark.sparkContext
    sent = context.broadcast((ids, factors))
    n_tasks = context.defaultParallelism
    bounds = np.linspace(0, len(ids), n_tasks + 1).astype(int)
    batches = context.parallelize(range(n_tasks), n_tasks).mapPartitions(partial(_read_rows, sent, rank, bounds))
    schema = _schema(from_arrow_type(ids.type, prefer_timestamp_ntz=True), has_biases=factors.shape[1] > rank)
    return FactorTable(to_table(spark, batches, schema), batches)


def wide_factor_table(
    spark: SparkSession, ids: RDD[pa.Array], factors: WideFactors, id_type: DataType, storage: StorageLevel
) -> FactorTable:
    """Give every row of a wide side its raw id, block by block.

    Parameters
    ----------
    ids : partition p has the ids of block p
    storage : where the rows are kept; they are there when this returns

    Returns
    -------
    FactorTable    in the order of the rows, which would be computed again from the ratings if they were lost
    """
    batches = ids.union(factors.rdd).mapPartitions(partial(_join_ids, factors.rank, factors.scale)).persist(storage)
    has_biases = any(batches.map(lambda batch: "bias" in batch.schema.names).collect())
    return FactorTable(to_table(spark, batches, _schema(id_type, has_biases=has_biases)), batches)


def _schema(id_type: DataType, *, has_biases: bool) -> StructType:
    fields = [StructField("id", id_type), StructField("features", ArrayType(FloatType()))]
    return StructType([*fields, StructField("bias", FloatType())] if has_biases else fields)


def _join_ids(rank: int, scale: float, records: Iterable[Any]) -> Iterator[pa.RecordBatch]:
    """Executor: the ids of one block and its factors in, its rows of the table out."""
    ids, *parts = records
    if parts:
        yield from _batches(ids, gather_rows(parts, rank, scale), rank)


def factor_matrix(rows: pa.RecordBatch) -> Factors:
    """The factors of some rows as a matrix, behind them the column of their biases, where they have any."""
    values: Factors = rows["features"].flatten().to_numpy()
    factors = values.reshape(rows.num_rows, -1) if rows.num_rows else values.reshape(0, 0)
    return np.column_stack([factors, rows["bias"].to_numpy()]) if "bias" in rows.schema.names else factors


def _read_rows(
    sent: "Broadcast[tuple[pa.Array, Factors]]", rank: int, bounds: NDArray[np.int64], tasks: Iterable[int]
) -> Iterator[pa.RecordBatch]:
    """Executor: numbers of tasks in, their rows of the table out."""
    ids, factors = sent.value
    for task in tasks:
        rows = slice(bounds[task], bounds[task + 1])
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
