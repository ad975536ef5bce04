"""Every engine keeps the contract of engine/engine.py."""

import pytest

from mfspark.engine.connect import ConnectEngine
from mfspark.engine.local import LocalEngine
from mfspark.engine.rdd import RddEngine

ON_EXECUTORS = {"rdd": RddEngine, "connect": ConnectEngine}
ENGINES = [
    "local",
    pytest.param("rdd", marks=[pytest.mark.spark, pytest.mark.classic]),
    pytest.param("connect", marks=[pytest.mark.spark, pytest.mark.connect]),
]


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "local":
        return LocalEngine(n_cores=2)
    return ON_EXECUTORS[request.param](request.getfixturevalue("spark"))


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


def test_records_are_there_after_they_were_computed(engine, tmp_path):
    source = tmp_path / "source"
    source.write_text("7")
    kept = engine.numbers(2).map(lambda _part, numbers: (source.read_text() for _ in numbers)).keep(is_only_copy=True)
    kept.compute()
    source.unlink()
    assert kept.run(same) == ["7", "7"]
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


@pytest.mark.spark
@pytest.mark.parametrize("name", ENGINES)
def test_tables_come_back_as_they_were(spark, name):
    engine = ON_EXECUTORS.get(name, LocalEngine)(spark)
    table = spark.createDataFrame([(1, "a"), (2, None), (None, "c")], "n int, s string").repartition(2)
    batches = engine.read(table)
    again = engine.to_table(batches, table.schema)
    assert again.schema == table.schema
    assert sorted(map(str, again.collect())) == sorted(map(str, table.collect()))
