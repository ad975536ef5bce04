"""Columns of ratings by name: which types they may have, and what is made of them."""

import pytest
from pyspark.sql import functions as F

from mfspark import ALS
from mfspark.errors import DataError, SchemaError
from mfspark.tables.columns import select_ratings
from tests.asserts import assert_factors_close, factors_by_id
from tests.builders import random_ratings, ratings_table

pytestmark = pytest.mark.spark

USERS, ITEMS, VALUES = random_ratings(seed=9, n_users=20, n_items=12, n_ratings=120)


@pytest.fixture
def ratings(spark):
    return spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES))


def test_every_numeric_type_of_the_columns_gives_the_same_factors_and_predictions(ratings):
    def results(table):
        model = ALS(rank=2, maxIter=1).setNumBlocks(1).fit(table)
        sides = (factors_by_id(getattr(model, name)) for name in ("userFactors", "itemFactors"))
        pairs = {(row.user, row.item): [row.prediction] for row in model.transform(table).collect()}
        return [{float(key): row for key, row in factors.items()} for factors in sides], pairs

    whole = ratings.withColumn("rating", F.ceil("rating").cast("float"))
    expected_factors, expected_pairs = results(whole)
    for column_type in ("tinyint", "smallint", "int", "bigint", "float", "double", "decimal(9,1)"):
        cast = whole.select(*(F.col(name).cast(column_type) for name in ("user", "item", "rating")))
        found_factors, found_pairs = results(cast)
        for found, expected in zip(found_factors, expected_factors, strict=True):
            assert_factors_close(found, expected, rtol=1e-6)
        assert_factors_close(found_pairs, expected_pairs, rtol=1e-6)


@pytest.mark.parametrize(
    ("schema", "row", "message"),
    [
        ("user int, item int, stars float", (1, 2, 3.0), "column 'rating' is missing"),
        ("user array<int>, item int, rating float", ([1], 2, 3.0), "'user' must be a number, string"),
        ("user int, item int, rating string", (1, 2, "3"), "'rating' must be numeric"),
    ],
)
def test_columns_that_are_no_ratings_are_refused(spark, schema, row, message):
    with pytest.raises(SchemaError, match=message):
        select_ratings(spark.createDataFrame([row], schema), "user", "item", "rating", None)


def test_validation_flags_must_be_boolean(ratings):
    with pytest.raises(SchemaError, match="must be boolean"):
        select_ratings(ratings.selectExpr("*", "'no' AS judges"), "user", "item", "rating", None, "judges")


def test_ratings_beyond_float32_are_refused(spark):
    ratings = spark.createDataFrame([(1, 2, 1e300)], "user int, item int, rating double")
    with pytest.raises(DataError, match="1 null, NaN or infinite ratings"):
        ALS().fit(ratings)


def test_floating_ids_have_one_zero(spark):
    zeros = spark.createDataFrame([(-0.0, 1, 1.0), (0.0, 2, 1.0)], "user double, item int, rating float")
    assert ALS(rank=1, maxIter=1).fit(zeros).userFactors.count() == 1
