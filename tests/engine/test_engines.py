"""Every engine keeps the contract of engine/engine.py."""

import os
import threading
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql.types import IntegerType, LongType, StringType, StructField, StructType

from mfspark.engine import choice
from mfspark.engine.choice import read_small
from mfspark.engine.local import LocalEngine, LocalParts
from mfspark.engine.rdd import RddEngine


@pytest.fixture(params=["local", pytest.param("rdd", marks=pytest.mark.spark)])
def engine(request):
    if request.param == "local":
        return LocalEngine(n_cores=2)
    return RddEngine(request.getfixturevalue("spark"))


def tens(part, numbers):
    return (10 * part + number for number in numbers)


def scatter(part, numbers):
    return ((number % 2, (part, number)) for number in numbers)


def values(_part, pairs):
    return sorted(value for _, value in pairs)


def same(_part, records):
    return records


def fail(_part, _records):
    raise ValueError("lost")


def test_map_gives_each_task_its_number_and_its_records(engine):
    assert engine.numbers(3).map(tens).run(same) == [0, 11, 22]


def test_run_returns_the_results_of_some_parts_in_their_order(engine):
    assert engine.numbers(5).run(tens, [3, 1]) == [33, 11]


def test_exchange_brings_each_pair_to_its_target(engine):
    arrived = engine.numbers(4).exchange(scatter, 3)
    assert arrived.n_parts == 3
    assert arrived.map(values).run(same, [0]) == [(0, 0), (2, 2)]
    assert arrived.map(values).run(same, [1]) == [(1, 1), (3, 3)]
    assert arrived.map(values).run(same, [2]) == []


def test_an_exchange_after_an_exchange_moves_the_pairs_again(engine):
    def to_zero(_part, pairs):
        return ((0, value) for _, value in pairs)

    assert engine.numbers(4).exchange(scatter, 3).exchange(to_zero, 3).map(values).run(same, [0]) == [
        (part, part) for part in range(4)
    ]


def test_beside_puts_the_records_of_equal_parts_together(engine):
    left, right = (engine.numbers(4).exchange(scatter, 2).map(values) for _ in range(2))
    together = left.beside(right)
    assert together.n_parts == 2
    assert together.run(same, [1]) == [(1, 1), (3, 3), (1, 1), (3, 3)]


def test_zip_pairs_records(engine):
    numbers = engine.numbers(3)
    assert numbers.zip(numbers.map(tens)).run(same) == [(0, 0), (1, 11), (2, 22)]


def test_reduce_merges_all_records(engine):
    assert engine.numbers(5).reduce(max) == 4
    assert engine.numbers(2).run(lambda _part, records: records) == [0, 1]
    assert engine.numbers(2).map(lambda *_: []).reduce(max) is None


def test_a_sent_value_is_read_by_every_task(engine):
    sent = engine.send({"factor": 3})
    assert engine.numbers(2).run(lambda _part, numbers: (number * sent.value["factor"] for number in numbers)) == [0, 3]
    sent.drop()


def test_kept_records_are_computed_once(engine, tmp_path):
    log = tmp_path / "log"

    def compute(part, numbers):
        with log.open("a") as file:
            file.write(f"{part}\n")
        return numbers

    kept = engine.numbers(2).map(compute).keep()
    assert kept.run(same) == kept.run(same) == [0, 1]
    assert sorted(log.read_text().split()) == ["0", "1"]
    kept.drop()


def test_the_only_copy_needs_nothing_that_it_was_made_of(engine, tmp_path):
    source = tmp_path / "source"
    source.write_text("7")
    kept = engine.numbers(2).map(lambda _part, numbers: (source.read_text() for _ in numbers)).keep(is_only_copy=True)
    assert kept.run(same) == ["7", "7"]
    source.unlink()
    assert kept.run(same) == ["7", "7"]
    kept.drop()


def test_an_error_of_a_task_reaches_the_caller(engine):
    with pytest.raises(Exception, match="lost"):
        engine.numbers(3).run(fail)


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
@pytest.mark.parametrize("name", ["local", "rdd"])
def test_tables_come_back_as_they_were(spark, name):
    engine = LocalEngine(spark) if name == "local" else RddEngine(spark)
    table = spark.createDataFrame([(1, "a"), (2, None), (None, "c")], "n int, s string").repartition(2)
    batches = engine.read(table)
    again = engine.to_table(batches, table.schema)
    assert again.schema == table.schema
    assert sorted(map(str, again.collect())) == sorted(map(str, table.collect()))


@pytest.mark.spark
def test_an_empty_local_table_has_its_schema(spark):
    schema = StructType([StructField("n", LongType()), StructField("s", StringType())])
    empty = LocalEngine(spark).to_table(LocalParts(LocalEngine(spark), [[]]), schema)
    assert (empty.schema, empty.collect()) == (schema, [])


@pytest.mark.spark
class TestReadSmall:
    """Small tables are read into the driver's memory, others are left alone."""

    @staticmethod
    def n_jobs(spark, work):
        context = spark.sparkContext
        group = uuid4().hex
        context.setJobGroup(group, "read")
        try:
            found = work()
            return found, len(context.statusTracker().getJobIdsForGroup(group))
        finally:
            context.setLocalProperty("spark.jobGroup.id", None)

    def test_a_stored_table_is_read_by_one_job(self, spark, tmp_path):
        spark.range(100).write.parquet(str(tmp_path / "table"))
        found, n_jobs = self.n_jobs(spark, lambda: read_small(spark.read.parquet(str(tmp_path / "table"))))
        # One more job reads the schema.
        assert (sum(batch.num_rows for batch in found.records), n_jobs) == (100, 2)

    def test_a_table_of_more_rows_is_left_alone(self, spark, tmp_path):
        spark.range(101).write.parquet(str(tmp_path / "table"))
        assert read_small(spark.read.parquet(str(tmp_path / "table")), max_rows=100) is None

    def test_a_table_of_unknown_size_is_counted_first(self, spark):
        rows = spark.createDataFrame([(number,) for number in range(20)], StructType([StructField("n", IntegerType())]))
        assert read_small(rows, max_rows=20) is not None
        found, n_jobs = self.n_jobs(spark, lambda: read_small(rows, max_rows=19))
        assert found is None
        assert n_jobs <= 2  # of the count alone

    def test_of_large_input_nothing_is_read(self, spark, tmp_path, monkeypatch):
        spark.range(1000).write.parquet(str(tmp_path / "table"))
        monkeypatch.setattr(choice, "_SMALL_BYTES", 10)
        monkeypatch.setattr(choice, "_LARGE_BYTES", 100)
        table = spark.read.parquet(str(tmp_path / "table"))
        assert self.n_jobs(spark, lambda: read_small(table)) == (None, 0)
