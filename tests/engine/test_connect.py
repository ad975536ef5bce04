"""The Connect engine: what it refuses, what it sends, and that plans stay short."""

from functools import partial

import numpy as np
import pytest
from pyspark.errors import PySparkException

from mfspark import ALS, SGD
from mfspark.engine import connect
from mfspark.engine.choice import _sizes_in_text, executors_engine, local_engine
from mfspark.engine.connect import ConnectEngine
from mfspark.engine.connect_rows import RECORD_ROWS, write_records
from mfspark.engine.failures import package_versions, require_shipped
from mfspark.engine.local import LocalEngine
from mfspark.errors import CapacityError, ConfigError, OutputError
from tests.asserts import assert_same_bytes, factors_by_id
from tests.builders import OBJECTIVES, random_ratings, ratings_table

pytestmark = [pytest.mark.spark, pytest.mark.connect]

USERS, ITEMS, VALUES = random_ratings(seed=9, n_users=40, n_items=25, n_ratings=300)
BLOCKS = {"numUserBlocks": 3, "numItemBlocks": 2}


@pytest.fixture
def engine(spark):
    return ConnectEngine(spark)


@pytest.fixture
def ratings(spark):
    table = ratings_table(USERS, ITEMS, VALUES).append_column("weight", [(VALUES + 1).tolist()])
    return spark.createDataFrame(table.append_column("judges", [(np.arange(len(USERS)) % 7 == 0).tolist()]))


def same(_part, records):
    return records


def assert_same_model(found, expected):
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(*(factors_by_id(getattr(model, table)) for model in (found, expected)))
    histories = [[record.objective for record in model.summary.history] for model in (found, expected)]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_factors_have_the_bytes_of_the_local_engine(ratings, objective):
    settings = BLOCKS | {"rank": 4, "maxIter": 2, "seed": 1, "validationIndicatorCol": "judges"}
    found, expected = (
        ALS(engine=engine, **settings, **OBJECTIVES[objective]).fit(ratings) for engine in ("connect", "local")
    )
    assert found.summary.engine == "connect"
    assert_same_model(found, expected)


@pytest.mark.parametrize(("max_bytes", "n_wide"), [(100, 2), (4 * 5 * 30, 1)])
def test_factors_that_are_exchanged_have_the_same_bytes(ratings, max_bytes, n_wide):
    settings = BLOCKS | {"rank": 4, "maxIter": 3, "seed": 1, "biases": True, "weightCol": "weight"}
    found = ALS(engine="connect", maxBroadcastBytes=max_bytes, **settings).fit(ratings)
    assert found.summary.n_wide_sides == n_wide
    expected = ALS(engine="local", **settings).fit(ratings)
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(*(factors_by_id(getattr(model, table)) for model in (found, expected)))


def test_sgd_has_the_bytes_of_the_local_engine(ratings):
    found, expected = (SGD(rank=3, maxIter=2, numBlocks=2, engine=name).fit(ratings) for name in ("connect", "local"))
    assert_same_model(found, expected)


@pytest.mark.parametrize("algorithm", [ALS(solver="cg"), SGD(numBlocks=2)])
def test_factors_above_the_size_of_a_message_have_the_same_bytes(ratings, algorithm, monkeypatch):
    settings = {"rank": 3, "maxIter": 2, "seed": 1}
    expected = algorithm.copy().setParams(engine="local", **settings).fit(ratings)
    monkeypatch.setattr(connect, "_MOST_SENT_BYTES", 200)
    monkeypatch.setattr(ConnectEngine, "max_sent_bytes", 1 << 30)
    found = algorithm.copy().setParams(engine="connect", **settings).fit(ratings)
    assert found.summary.engine == "connect"
    assert_same_model(found, expected)


def test_small_data_is_trained_on_the_client(spark, ratings):
    assert ALS(rank=1, maxIter=1).fit(ratings).summary.engine == "local"
    assert local_engine(ratings.sparkSession).n_cores == LocalEngine().n_cores
    assert isinstance(executors_engine(spark), ConnectEngine)


def test_a_session_of_the_other_kind_is_one_clear_error(ratings):
    message = "engine 'rdd' needs a classic Spark session, found a session of Spark Connect, which has no RDDs; use "
    with pytest.raises(ConfigError, match=message):
        ALS(engine="rdd").fit(ratings)


def test_an_older_server_is_one_clear_error(spark, monkeypatch):
    monkeypatch.setattr(spark, "version", "4.0.1")
    with pytest.raises(ConfigError, match=r"need Spark 4.1 or later, found 4.0.1; .* engine 'local'"):
        ConnectEngine(spark)


def test_checkpoints_on_a_store_that_the_client_cannot_reach_are_refused(ratings):
    with pytest.raises(OutputError, match="cannot use 's3a://bucket/a' from a client of Spark Connect, which reaches"):
        ALS(rank=1, maxIter=1, checkpointPath="s3a://bucket/a").fit(ratings)


def first_number(sent, part, _records):
    yield part, float(sent.value[part])


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_value_above_the_size_of_a_message_is_read_by_every_task(engine, is_kept):
    numbers = engine.send(np.arange(17e6))  # 130 MiB
    parts = engine.numbers(3).exchange(to_zero_and_two, 3)
    parts = parts.keep() if is_kept else parts.map(same)
    assert parts.map(partial(first_number, numbers)).run(same) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert parts.run(partial(first_number, numbers), [2, 1]) == [(2, 2.0), (1, 1.0)]


def test_records_stay_in_order_below_the_join_with_a_value(engine, monkeypatch):
    monkeypatch.setattr(connect, "_MOST_SENT_BYTES", 100)
    numbers = engine.send(np.arange(100.0))
    parts = engine.numbers(2).exchange(to_zero_and_two, 3).map(partial(first_number, numbers))
    plan = parts.apply(write_records, RECORD_ROWS)._explain_string(extended=True).partition("== Optimized")[2]
    assert 0 < plan.index("Join LeftOuter") < plan.index("Sort [source")


def to_zero_and_two(_part, numbers):
    return ((target, number) for number in numbers for target in (0, 2))


def test_records_of_a_table_stay_before_those_beside_it(spark, engine, monkeypatch):
    """Spark may count fewer partitions of a local table than it then reads."""
    monkeypatch.setattr(connect, "count_partitions", lambda _: 1)
    rows = spark.range(0, 8, 1, 4).withColumnRenamed("id", "n")
    sent = engine.read(rows).exchange(
        lambda part, batches: ((0, (part, batch["n"].to_pylist())) for batch in batches), 1
    )
    after = engine.numbers(1).exchange(lambda _part, numbers: ((0, "last") for _ in numbers), 1)
    found = [value for _target, value in sent.beside(after).run(same)]
    assert found[-1] == "last"
    assert sorted(number for _part, numbers in found[:-1] for number in numbers) == list(range(8))


def first_record(sent, part, records):
    yield part, float(sent[0].value[part]), float(sent[1].value[part]), len(list(records))


def test_large_values_come_before_the_records_of_both_sides(spark, engine, monkeypatch):
    monkeypatch.setattr(connect, "_MOST_SENT_BYTES", 100)
    sent = tuple(engine.send(factor * np.arange(100.0)) for factor in (1, 10))
    left, right = (engine.numbers(2).map(partial(first_record, sent)) for _ in range(2))
    assert left.beside(right).map(partial(first_record, sent)).run(same) == [(0, 0.0, 0.0, 2), (1, 1.0, 10.0, 2)]
    table = engine.read(spark.createDataFrame([("a", 1), ("b", 2)], "value string, piece int").coalesce(1))
    assert table.map(partial(first_record, sent)).run(same) == [(0, 0.0, 0.0, 1)]


def test_more_values_than_fit_a_message_are_one_clear_error(engine, monkeypatch):
    numbers = engine.send(np.arange(1000.0))
    assert engine.numbers(2).run(partial(first_number, numbers)) == [(0, 0.0), (1, 1.0)]
    monkeypatch.setattr(connect, "_MOST_CODE_BYTES", 7000)
    with pytest.raises(CapacityError, match=r"read values of 8\d\d\d bytes, but Spark Connect refuses messages above"):
        engine.numbers(2).run(partial(first_number, numbers))


def blobs(part, _records):
    for number in range(3):
        yield bytes([part, number]) * 5_000_000


def to_zero(_part, records):
    return ((0, record) for record in records)


def test_a_record_larger_than_a_message_arrives_whole_and_in_order(engine):
    kept = engine.numbers(2).map(blobs).exchange(to_zero, 1).keep()
    found = [(len(blob), blob[:2]) for _target, blob in kept.run(same)]
    assert found == [(10_000_000, bytes([part, number])) for part in range(2) for number in range(3)]


def test_a_kept_plan_is_as_long_after_many_steps_as_after_one(engine):
    def size(parts):
        return parts.frame._plan.to_proto(engine._spark.client).ByteSize()

    kept = first = engine.numbers(2).keep()
    for _ in range(5):
        kept = kept.exchange(to_zero, 2).map(lambda _part, pairs: [value for _, value in pairs]).keep()
    assert size(kept) == size(first)
    assert sorted(kept.run(same)) == [0, 1]


def test_dropped_records_cannot_be_read(engine):
    kept = engine.numbers(2).keep()
    kept.drop()
    with pytest.raises(RuntimeError, match="these records were dropped"):
        kept.run(same)


def test_work_is_tagged_with_its_name(spark, engine):
    with engine.named("train: iteration 1/2, items"):
        assert spark.getTags() == {"train: iteration 1/2; items"}
    assert spark.getTags() == set()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ModuleNotFoundError: No module named 'mfspark'", "reports 'No module named 'mfspark''"),
        ("[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.9", "is not version"),
    ],
)
def test_executors_without_mfspark_are_one_clear_error(text, what):
    with pytest.raises(ConfigError, match=rf"{what}.*; send mfspark with spark.addArtifacts\('mfspark.zip'"):
        require_shipped(PySparkException(text))
    require_shipped(PySparkException("Job aborted"))


def test_another_major_version_of_a_package_is_one_clear_error(engine, monkeypatch):
    here = package_versions()
    monkeypatch.setattr(connect, "package_versions", lambda: here | {"numba": "99.1.2"})
    with pytest.raises(ConfigError, match=f"reports 'numba {here['numba']}, but the driver has 99.1.2'"):
        engine.numbers(2).run(same)


def test_estimates_of_a_plan_are_read_from_its_text(spark):
    text = spark.range(1000).crossJoin(spark.range(10)).where("true")._explain_string(extended="cost")
    assert _sizes_in_text(text) == (640_000, [pytest.approx(8000, rel=0.01), 80])
