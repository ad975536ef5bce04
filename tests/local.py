"""Records and trainings on the local engine, for tests without a JVM."""

import json
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql.pandas.types import from_arrow_type

from mfspark.blocks.prepare import blocked_ratings
from mfspark.engine.local import LocalEngine, LocalParts
from mfspark.training.checkpoints import StoredCheckpoints
from mfspark.training.factor_tables import FactorTable
from mfspark.training.loop import LoopConfig
from mfspark.training.train import TrainingSummary, train


def parts_of(table: pa.Table, n_parts: int = 1) -> LocalParts:
    """The rows of a table in so many parts, on two threads."""
    n_rows = -(-table.num_rows // n_parts)
    batches = [table.slice(part * n_rows, n_rows).combine_chunks().to_batches() for part in range(n_parts)]
    return LocalParts(LocalEngine(n_cores=2), batches)


def columns_of(users, items, ratings, **others) -> pa.Table:
    """Ratings as `encode` wants them; `others` are weight and is_validation, where there are any."""
    if "weight" in others:
        others["weight"] = pa.array(others["weight"], pa.float32())
    return pa.table({"user_id": users, "item_id": items, "rating": pa.array(ratings, pa.float32())} | others)


class Trained(NamedTuple):
    """What a training ends with. Rows are in ascending order of the ids; biases are the last column."""

    X: np.ndarray
    Y: np.ndarray
    summary: TrainingSummary
    tables: tuple[FactorTable, FactorTable]

    @property
    def ids(self) -> tuple[list, list]:
        """Raw ids of users and of items."""
        users, items = (table.collect()[0].to_pylist() for table in self.tables)
        return users, items

    def predict(self, users, items) -> np.ndarray:
        """x·y of each pair, with the mean and the biases where there are any; NaN where an id is unknown."""
        sides = []
        for ids, factors, wanted in zip(self.ids, (self.X, self.Y), (users, items), strict=True):
            row_of = {raw_id: row for row, raw_id in enumerate(ids)}
            unknown = np.full(factors.shape[1], np.nan)
            sides.append(np.array([factors[row_of[i]] if i in row_of else unknown for i in wanted], np.float64))
        x, y = sides
        if not self.tables[0].has_biases:
            return (x * y).sum(axis=1)
        return self.summary.global_mean + x[:, -1] + y[:, -1] + (x[:, :-1] * y[:, :-1]).sum(axis=1)


def fit_without_spark(
    estimator, ratings: pa.Table, *, n_parts: int = 1, initial: Trained | None = None, checkpoints=None
) -> Trained:
    """The model of an estimator on columns user_id, item_id, rating and, where they are there, weight, is_validation.

    initial : where training starts from
    checkpoints : `MemoryStore.checkpoints`, where training keeps its own
    """
    id_types = {side: from_arrow_type(ratings.schema.field(f"{side}_id").type) for side in ("user", "item")}
    loop = LoopConfig(estimator.getMaxIter(), estimator.getSeed(), estimator.getTol(), estimator.getPatience())
    with blocked_ratings(parts_of(ratings, n_parts), estimator._block_config()) as blocked:
        users, items, summary = train(
            replace(blocked, id_types=id_types),
            estimator.algorithm(),
            loop,
            StorageLevel.MEMORY_ONLY,
            None if initial is None else initial.tables,
            checkpoints,
        )
    return Trained(users.collect()[1], items.collect()[1], summary, (users, items))


class MemoryStore:
    """Keeps the last checkpoint as a file would: its content as JSON, and the bytes of its arrays."""

    path = "memory"

    def __init__(self) -> None:
        self.iterations, self.arrays, self._content = [], {}, ""

    def get(self):
        if not self.iterations:
            return None
        return json.loads(self._content), {name: values.copy() for name, values in self.arrays.items()}, {}

    def put(self, iteration, content, arrays, tables) -> None:
        assert not tables  # without Spark no side is wide
        self.iterations.append(iteration)
        self._content, self.arrays = json.dumps(content), {name: values.copy() for name, values in arrays.items()}

    def checkpoints(self, interval: int):
        """For `fit_without_spark`: one checkpoint after so many iterations, and one after the last."""
        return partial(StoredCheckpoints, self, interval, {})
