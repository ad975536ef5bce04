"""What only the local engine has; `test_engines` has what every engine keeps."""

import os
import threading

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql.types import LongType, StringType, StructField, StructType

from mfspark.engine.local import LocalEngine, LocalParts


def test_local_tasks_run_on_threads_of_this_process():
    meet = threading.Barrier(2, timeout=10)  # passes only where two tasks wait at the same time

    def task(part, _records):
        meet.wait()
        return [(os.getpid(), threading.current_thread() is threading.main_thread(), part)]

    assert LocalEngine(n_cores=2).numbers(2).run(task) == [(os.getpid(), False, part) for part in range(2)]


def test_after_an_error_no_further_local_task_begins():
    begun = []

    def task(part, _records):
        begun.append(part)
        if part == 0:
            raise ValueError("lost")
        return []

    with pytest.raises(ValueError, match="lost"):
        LocalEngine(n_cores=2).numbers(1000).run(task)
    assert len(begun) < 1000


def test_batches_are_dealt_to_threads_by_rows_and_in_order(monkeypatch):
    monkeypatch.setattr("mfspark.engine.local._ROWS_IN_PART", 10)
    batches = [pa.record_batch({"n": np.full(size, number)}) for number, size in enumerate([10, 10, 5, 5, 10])]
    parts = LocalEngine(n_cores=2).parts_of(batches)
    assert [[batch.num_rows for batch in part] for part in parts.parts] == [[10, 10], [5, 5, 10]]
    assert parts.records == batches
    assert LocalEngine(n_cores=8).parts_of(batches[2:4]).n_parts == 1
    assert LocalEngine(n_cores=8).parts_of([]).records == []


@pytest.mark.spark
def test_an_empty_local_table_has_its_schema(spark):
    schema = StructType([StructField("n", LongType()), StructField("s", StringType())])
    empty = LocalEngine(spark).to_table(LocalParts(LocalEngine(spark), [[]]), schema)
    assert (empty.schema, empty.collect()) == (schema, [])
