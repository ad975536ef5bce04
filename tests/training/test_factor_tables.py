"""Factors come back under the ids that they are of."""

import datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from mfspark import ALS
from mfspark.training.factor_tables import FactorTable
from tests.asserts import assert_factors_close, factors_by_id, hashable
from tests.builders import ratings_table
from tests.conftest import N_WIDE_USERS, NONE_WIDE, USERS_WIDE
from tests.local import columns_of, fit_without_spark

pytestmark = pytest.mark.spark


@pytest.mark.parametrize(
    ("user_ids", "item_ids"),
    [
        (pa.array(["b", "a", "b"]), pa.array([2**40, 5, 5])),
        (pa.array([-3, 9, -3], pa.int8()), pa.array([1, 2, 2], pa.int16())),
        (pa.array([1, 2, 1], pa.decimal128(9, 2)), pa.array(["x", "y", "y"])),
    ],
)
def test_ids_come_back_in_their_own_type(spark, user_ids, item_ids):
    ratings = spark.createDataFrame(ratings_table(user_ids, item_ids, [4.0, 3.0, 5.0]))
    model = ALS(rank=2, maxIter=2).fit(ratings)
    for factors, column in ((model.userFactors, "user"), (model.itemFactors, "item")):
        assert factors.schema["id"].dataType == ratings.schema[column].dataType
        assert factors.schema["features"].dataType.simpleString() == "array<float>"
        expected_ids = sorted({row[0] for row in ratings.select(column).collect()})
        assert [row["id"] for row in factors.collect()] == expected_ids
    entry = model.recommendForAllUsers(1).schema["recommendations"].dataType.elementType
    assert entry["item"].dataType == ratings.schema["item"].dataType


IDS = {
    "tinyint": int, "smallint": int, "int": int, "bigint": lambda n: 2**40 + n,
    "float": float, "double": lambda n: n / 4,
    "decimal(10,2)": Decimal, "string": str, "boolean": lambda n: n == 0, "binary": lambda n: bytes([255, n]),
    "date": lambda n: datetime.date(2024, 1, 1 + n), "timestamp": lambda n: datetime.datetime(2024, 1, 1, n),
    "timestamp_ntz": lambda n: datetime.datetime(2024, 1, 1, n),
}  # fmt: skip


@pytest.mark.parametrize("id_type", IDS)
def test_ids_of_every_type_give_the_same_model_and_come_back_as_they_were(spark, id_type):
    make = IDS[id_type]
    # Two users only: there are no more booleans.
    pairs = [(u, i, float(1 + (u + 2 * i) % 5)) for u in range(2) for i in range(6) if (u + i) % 3]
    als = ALS(rank=2, maxIter=2).setNumBlocks(1)
    plain = fit_without_spark(als, columns_of(*zip(*pairs, strict=True)))
    rows = [(make(1 - u) if id_type == "boolean" else make(u), i, r) for u, i, r in pairs]
    data = spark.createDataFrame(rows, f"user {id_type}, item int, rating float")
    model = als.fit(data)
    expected_type = "int" if id_type == "float" else id_type  # whole numbers
    assert model.userFactors.schema["id"].dataType.simpleString() == expected_type
    found = factors_by_id(model.userFactors)
    by_position = dict(enumerate(found[key] for key in sorted(found)))
    assert_factors_close(by_position, dict(enumerate(plain.X)), rtol=1e-6)
    best = model.recommendForAllUsers(3, seen=data)
    assert {hashable(row.user) for row in best.collect()} == {hashable(row.user) for row in data.collect()}
    predictions = model.transform(data)
    assert predictions.where(F.isnan("prediction")).count() == 0


def test_numbers_that_sparks_als_refuses_are_ids(spark):
    rows = [(2**40, 0.25, 3.0), (2**40, 1.0, 1.0), (-(2**40), 0.25, 2.0)]
    data = spark.createDataFrame(rows, "user bigint, item double, rating float")
    model = ALS(rank=1, maxIter=1).fit(data)
    assert sorted(factors_by_id(model.userFactors)) == [-(2**40), 2**40]
    assert sorted(factors_by_id(model.itemFactors)) == [0.25, 1.0]
    assert model.transform(data).where(F.isnan("prediction")).count() == 0


def test_string_ids_of_a_wide_side_come_back(wide_ratings, fit_wide):
    named = wide_ratings.selectExpr("concat('u', user) AS user", "item", "rating", "judges")
    expected, found = (fit_wide(named, maxBroadcastBytes=n) for n in (NONE_WIDE, USERS_WIDE))
    for ours, theirs in ((found.userFactors, expected.userFactors), (found.itemFactors, expected.itemFactors)):
        assert ours.schema == theirs.schema
        assert_factors_close(factors_by_id(ours), factors_by_id(theirs), rtol=1e-6, atol=1e-6)
    assert found.summary.objective_history == pytest.approx(expected.summary.objective_history, rel=1e-5)
    pairs = named.limit(20)
    predictions = [
        {(row.user, row.item): row.prediction for row in model.transform(pairs).collect()}
        for model in (found, expected)
    ]
    assert predictions[0] == pytest.approx(predictions[1], rel=1e-5)
    assert found.recommendForAllUsers(3, seen=named).count() == N_WIDE_USERS


def test_a_table_without_rows_keeps_its_types(spark):
    table = spark.createDataFrame([], "id timestamp, features array<float>")
    ids, factors = FactorTable.of(table).collect()
    assert (ids.type, factors.shape[0]) == (pa.timestamp("us", "UTC"), 0)
