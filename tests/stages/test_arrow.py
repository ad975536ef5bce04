"""Batches are joined up to a size and no row is lost."""

import numpy as np
import pyarrow as pa

from mfspark.stages.arrow import gather_batches


def test_batches_are_joined_until_they_have_the_rows_asked_for():
    batch = pa.RecordBatch.from_pydict({"user_id": np.arange(125)})
    tables = list(gather_batches((batch.slice(start, 30) for start in range(0, 125, 30)), 50))
    assert [table.num_rows for table in tables] == [60, 60, 5]
    assert pa.concat_tables(tables)["user_id"].to_pylist() == list(range(125))


def test_batches_without_rows_make_no_table():
    batch = pa.RecordBatch.from_pydict({"user_id": np.arange(0)})
    assert list(gather_batches([batch, batch], 50)) == []
