"""Records on the local engine, for tests without a JVM."""

import pyarrow as pa

from mfspark.engine.local import LocalEngine, LocalParts


def parts_of(table: pa.Table, n_parts: int = 1) -> LocalParts:
    """The rows of a table in so many parts, on two threads."""
    n_rows = -(-table.num_rows // n_parts)
    batches = [table.slice(part * n_rows, n_rows).combine_chunks().to_batches() for part in range(n_parts)]
    return LocalParts(LocalEngine(n_cores=2), batches)


def columns_of(users, items, ratings, **others) -> pa.Table:
    """Ratings as `encode` wants them."""
    return pa.table({"user_id": users, "item_id": items, "rating": pa.array(ratings, pa.float32())} | others)
