"""Ids of another type than the model's are no error; whole numbers in a floating-point column are whole numbers."""

import datetime

import pytest
from pyspark.errors import ParseException
from pyspark.ml import Pipeline
from pyspark.ml.feature import StringIndexer
from pyspark.ml.recommendation import ALS as SPARK_ALS

from mfspark import ALS
from mfspark.ml.model import ALSModel

pytestmark = pytest.mark.spark

ROWS = [(1, 10, 4.0), (1, 20, 2.0), (2, 10, 5.0), (2, 30, 1.0), (3, 20, 3.0), (3, 30, 2.0)]


@pytest.fixture(scope="module")
def models(spark_session):
    """A model of whole numbers, and one of the same ids as text."""
    numbers = spark_session.createDataFrame(ROWS, "user int, item int, rating float")
    texts = numbers.selectExpr("string(user) AS user", "string(item) AS item", "rating")
    als = ALS(rank=2, maxIter=2)
    return {"numbers": als.fit(numbers), "texts": als.fit(texts)}


def items_of(lists):
    return {str(entry.item) for row in lists.collect() for entry in row.recommendations}


def users_of(table):
    return sorted(str(row["user"]) for row in table.collect())


# What of the model's ids 1, 2, 3 each column names.
OTHER_TYPES = [
    ("numbers", "values ('3'), ('abc'), ('')", {"3"}),
    ("numbers", "values (3.0D), (2.5D), (1e200D)", {"3"}),
    ("numbers", "values (3L), (99999999999L)", {"3"}),
    ("numbers", "values (cast('3' AS binary))", set()),
    ("texts", "values (3), (7)", {"3"}),
    ("texts", "values (date'2026-01-01')", set()),
]


@pytest.mark.parametrize(("model", "values", "known"), OTHER_TYPES)
def test_ids_of_another_type_are_known_or_unknown_and_no_error(spark, models, model, values, known):
    fitted: ALSModel = models[model]
    ids = spark.sql(f"SELECT * FROM {values} AS t(user)")
    pairs = ids.selectExpr("user", "user AS item")
    found = fitted.transform(ids.selectExpr("user", "10 AS item")).where("NOT isnan(prediction)")
    assert set(users_of(found.selectExpr("string(double(string(user))) AS user"))) == {f"{id_}.0" for id_ in known}
    assert set(users_of(fitted.recommendForUserSubset(ids, 3))) == known
    popular = fitted.recommendForUserSubset(
        ids, 3, popular=spark.createDataFrame(ROWS, "user int, item int, rating float")
    )
    assert popular.count() == ids.count()
    items = spark.sql(f"SELECT * FROM {values.replace('3', '30')} AS t(item)")
    kept = {
        str(e.item) for row in fitted.recommendForAllUsers(3, candidates=items).collect() for e in row.recommendations
    }
    assert kept == ({"30"} if known else set())
    left = {str(e.item) for row in fitted.recommendForAllUsers(3, exclude=items).collect() for e in row.recommendations}
    assert left == {"10", "20", "30"} - kept
    numbers = spark.createDataFrame([(1, 10)], "user int, item int")
    lists = fitted.recommendForAllUsers(3, seen=numbers, exclude=pairs)
    assert {row["user"]: len(row["recommendations"]) for row in lists.collect()}[fitted_id(fitted, 1)] == 2


def fitted_id(model, number):
    return str(number) if model.userFactors.schema["id"].dataType.simpleString() == "string" else number


def test_after_an_indexer_ids_are_those_of_spark(spark):
    table = spark.createDataFrame([(f"u{u}", f"i{i}", r) for u, i, r in ROWS], "name string, film string, rating float")
    lists = []
    for als in (ALS, SPARK_ALS):
        columns = [StringIndexer(inputCol="name", outputCol="user"), StringIndexer(inputCol="film", outputCol="item")]
        *_, indexer, model = Pipeline(stages=[*columns, als(rank=2, maxIter=2)]).fit(table).stages
        assert model.itemFactors.schema["id"].dataType.simpleString() == "int"
        rows = model.recommendForAllUsers(1).collect()
        lists.append({row.user: indexer.labels[row.recommendations[0].item] for row in rows})
    assert lists[0].keys() == lists[1].keys()


def test_whole_ids_beyond_32_bits_and_fractions(spark):
    als = ALS(rank=2, maxIter=1)
    large = spark.createDataFrame(
        [(float(2**40 + u), float(i), r) for u, i, r in ROWS], "user double, item float, rating float"
    )
    model = als.fit(large)
    assert model.userFactors.schema["id"].dataType.simpleString() == "bigint"
    assert model.itemFactors.schema["id"].dataType.simpleString() == "int"
    assert model.transform(large).where("isnan(prediction)").count() == 0
    again = als.setInitialModel(model).fit(large)
    assert users_of(again.userFactors.withColumnRenamed("id", "user")) == [str(2**40 + u) for u in (1, 2, 3)]
    folded = model.foldInUsers(large.where(f"user = {2**40 + 1}"))
    assert users_of(folded.userFactors.withColumnRenamed("id", "user")) == [str(2**40 + 1)]
    fractions = ALS(rank=2, maxIter=1).fit(large.selectExpr("user + 0.5 AS user", "item", "rating"))
    assert fractions.userFactors.schema["id"].dataType.simpleString() == "double"


@pytest.mark.classic  # a client of Spark Connect cannot read timestamps in every zone
def test_timestamps_are_ids_in_any_time_zone(spark):
    before = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", "GMT+8")
    try:
        moments = spark.createDataFrame(ROWS, "user int, item int, rating float").selectExpr(
            "timestamp_seconds(user * 86400) AS user", "timestamp_seconds(item) AS item", "rating"
        )
        model = ALS(rank=2, maxIter=2).fit(moments)
        lists = model.recommendForAllUsers(3, seen=moments).collect()
        assert {(row.user.timestamp(), *(e.item.timestamp() for e in row.recommendations)) for row in lists} == {
            (86400.0, 30.0), (2 * 86400.0, 20.0), (3 * 86400.0, 10.0)
        }  # fmt: skip
        assert model.transform(moments).where("isnan(prediction)").count() == 0
        explained = model.explain(moments, datetime.datetime.fromtimestamp(86400), datetime.datetime.fromtimestamp(30))
        assert explained.count() == 2
        assert model.foldInUsers(moments).userFactors.count() == 3
    finally:
        spark.conf.set("spark.sql.session.timeZone", before)


def test_without_a_rating_column_each_row_counts_one(spark):
    ratings = spark.createDataFrame(ROWS, "user int, item int, rating float")
    als = ALS(rank=2, maxIter=3, implicitPrefs=True)
    ones = als.fit(ratings.selectExpr("user", "item", "float(1) AS rating"))
    unset = als.copy().setRatingCol("").fit(ratings.select("user", "item"))
    assert unset.userFactors.collect() == ones.userFactors.collect()
    assert unset.foldInUsers(ratings.select("user", "item")).userFactors.count() == 3


@pytest.mark.parametrize("is_local", [True, False])
def test_spellings_that_a_collation_calls_equal_are_one_id(spark, on_executors, is_local):
    engine = "local" if is_local else on_executors
    try:
        spark.sql("SELECT 'a' COLLATE UTF8_LCASE")
    except ParseException:
        pytest.skip("this Spark has no collations")
    rows = [("Ann", "x", 4.0), ("ANN", "y", 2.0), ("bob", "X", 5.0), ("Bob", "z", 1.0)]
    table = spark.createDataFrame(rows, "user string, item string, rating float")
    ratings = table.selectExpr("user COLLATE UTF8_LCASE AS user", "item COLLATE UTF8_LCASE AS item", "rating")
    model = ALS(rank=2, maxIter=2, engine=engine).fit(ratings)
    lower = table.selectExpr("lower(user) AS user", "lower(item) AS item", "rating")
    assert model.summary.n_users == 2
    assert users_of(model.userFactors.withColumnRenamed("id", "user")) == ["ANN", "Bob"]
    assert model.transform(ratings).where("NOT isnan(prediction)").count() == 4
    lists = {
        row.user: [e.item for e in row.recommendations] for row in model.recommendForAllUsers(5, ratings).collect()
    }
    assert lists == {"ANN": ["z"], "Bob": ["y"]}
    assert model.foldInUsers(ratings).userFactors.count() == 2
    assert {row.item for row in model.explain(ratings, "ann", "z").collect()} == {"X", "y"}
    # The same numbers as of ids of one spelling.
    plain = ALS(rank=2, maxIter=2, engine=engine).fit(lower)
    found, expected = ({row.id.lower(): row.features for row in m.userFactors.collect()} for m in (model, plain))
    assert found.keys() == expected.keys()
    for key, features in found.items():
        assert features == pytest.approx(expected[key], rel=1e-5)
