"""Records on the local engine, for tests without a JVM."""

from dataclasses import replace

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql.pandas.types import from_arrow_type

from mfspark.blocks.prepare import block_batches
from mfspark.engine.local import LocalEngine, LocalParts
from mfspark.training.loop import LoopConfig
from mfspark.training.train import train


def parts_of(table: pa.Table, n_parts: int = 1) -> LocalParts:
    """The rows of a table in so many parts, on two threads."""
    n_rows = -(-table.num_rows // n_parts)
    batches = [table.slice(part * n_rows, n_rows).combine_chunks().to_batches() for part in range(n_parts)]
    return LocalParts(LocalEngine(n_cores=2), batches)


def columns_of(users, items, ratings, **others) -> pa.Table:
    """Ratings as `encode` wants them."""
    return pa.table({"user_id": users, "item_id": items, "rating": pa.array(ratings, pa.float32())} | others)


def fit_without_spark(estimator, ratings: pa.Table):
    """(user factors, item factors, summary) of an estimator on columns user_id, item_id, rating, …; matrices by id."""
    blocked = replace(
        block_batches(parts_of(ratings), replace(estimator._block_config(), engine="local")),
        id_types={side: from_arrow_type(ratings.schema.field(f"{side}_id").type) for side in ("user", "item")},
    )
    loop = LoopConfig(estimator.getMaxIter(), estimator.getSeed(), estimator.getTol(), estimator.getPatience())
    users, items, summary = train(blocked, estimator._algorithm(), loop, StorageLevel.MEMORY_ONLY)
    return users.collect()[1], items.collect()[1], summary
