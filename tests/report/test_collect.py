"""Tables → plain data, on a running session."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from mfspark import ALSModel
from mfspark.errors import SchemaError
from mfspark.report.collect import (
    Bins,
    ScoredItem,
    collect,
    degree_bins,
    item_map,
    principal_components,
    rating_bins,
    rating_matrix,
    sample_users,
    with_item_names,
)
from mfspark.training.factor_tables import FactorTable
from tests.builders import TOY_ITEM_FACTORS, TOY_RATINGS, TOY_USER_FACTORS

LISTS = "user_id int, recommendations array<struct<item_id int, score float>>"
SCHEMA = "user_id int, item_id int, rating float, part string"


@pytest.mark.spark
def test_histograms_count_every_rating(spark):
    values = [1.0, 5.0, 1.0, 2.5]
    ratings = spark.createDataFrame([(u, i, r, "train") for u, (i, r) in enumerate(enumerate(values))], SCHEMA)
    assert rating_bins(ratings) == Bins(["1", "2.5", "5"], [2, 1, 1])
    many = spark.range(61).selectExpr("cast(id AS float) AS rating")
    bins = rating_bins(many)
    assert (len(bins.labels), bins.labels[0], bins.labels[-1]) == (30, "0 to 2", "58 to 60")
    assert bins.counts == [2] * 29 + [3]


@pytest.mark.spark
def test_degrees_are_by_doublings(spark):
    degrees = {1: 1, 2: 1, 3: 2, 4: 3, 5: 8, 6: 15, 7: 16}
    rows = [(user, item, 1.0, "train") for user, n in degrees.items() for item in range(n)]
    ratings = spark.createDataFrame(rows, SCHEMA)
    assert degree_bins(ratings, "user_id") == Bins(["1", "2 to 3", "4 to 7", "8 to 15", "16 to 31"], [2, 2, 0, 2, 1])
    assert degree_bins(ratings.where("false"), "user_id") == Bins([], [])


@pytest.mark.spark
def test_sample_users_are_the_same_whatever_the_order_and_have_enough_ratings(spark):
    rows = [(user, item, float(1 + (user * item) % 5), "train") for user in range(40) for item in range(user % 8)]
    recommendations = spark.createDataFrame(
        [(user, [(99, 4.5), (98, 4.0)]) for user in range(39)],
        "user_id int, recommendations array<struct<item_id int, score float>>",
    )
    found = [sample_users(spark.createDataFrame(order, SCHEMA), recommendations) for order in (rows, rows[::-1])]
    assert found[0] == found[1]
    assert len(found[0]) == 4
    for sample in found[0]:
        user = int(sample.user)
        assert sample.n_ratings == user % 8 >= 5
        best = sorted((-float(1 + (user * item) % 5), item) for item in range(user % 8))[:5]
        assert sample.top_rated == [ScoredItem(str(item), -rating) for rating, item in best]
        assert sample.recommended == ([ScoredItem("99", 4.5), ScoredItem("98", 4.0)] if user < 39 else [])


@pytest.mark.spark
def test_ids_come_as_text_that_can_be_read(spark):
    train = spark.sql(
        "SELECT cast(x'FF41' AS string) AS user_id, repeat('long', 20) AS item_id, float(1) AS rating, 'train' AS part"
    )
    nothing = "user_id string, recommendations array<struct<item_id string, score float>>"
    (sample,) = sample_users(train, spark.createDataFrame([], nothing))
    assert sample.user == "\ufffdA"
    assert sample.top_rated == [ScoredItem("long" * 15 + "lon…", 1.0)]
    (sample,) = sample_users(
        train.selectExpr("x'FF41' AS user_id", "date'+12345-01-02' AS item_id", "rating"),
        spark.createDataFrame([], "user_id binary, recommendations array<struct<item_id date, score float>>"),
    )
    assert (sample.user, sample.top_rated[0].item) == ("FF41", "+12345-01-02")


@pytest.fixture
def toy(spark):
    """The toy matrix with its given factors, one cell rated twice."""
    users, items = (
        FactorTable.of(
            spark.createDataFrame([(row + 1, x.tolist()) for row, x in enumerate(X)], "id int, features array<float>")
        )
        for X in (TOY_USER_FACTORS, TOY_ITEM_FACTORS)
    )
    model = ALSModel(users, items, 2, None).setUserCol("user_id").setItemCol("item_id")
    rows = [*((u, i, r, "train") for u, i, r in TOY_RATINGS), (3, 3, 4.0, "train")]
    return spark.createDataFrame(rows, SCHEMA), model


@pytest.mark.spark
def test_rating_matrix_is_beside_its_product(toy):
    matrix = rating_matrix(*toy)
    assert (matrix.users, matrix.items) == (["1", "2", "3"], ["1", "2", "3"])
    assert matrix.ratings == [[5, 3, None], [4, None, 1], [None, 2, 4.5]]
    expected = [[2.00, 1.13, 0.77], [1.62, 0.93, 0.49], [0.74, 0.29, 1.45]]
    np.testing.assert_allclose(matrix.predictions, expected, atol=1e-6)


@pytest.mark.spark
def test_large_matrix_is_left_out(spark, toy):
    ratings, model = toy
    no_lists = spark.createDataFrame([], LISTS)
    assert collect(ratings, model, no_lists).matrix is not None
    more = spark.range(10).selectExpr("cast(id + 4 AS int) AS user_id", "1 AS item_id", "float(1)", "'train' AS part")
    assert collect(ratings.union(more), model, no_lists).matrix is None


@pytest.mark.spark
def test_map_has_the_most_rated_items_first(toy):
    found = item_map(*toy)
    assert (found.items, found.n_ratings) == (["3", "1", "2"], [3, 2, 2])
    places, shares = principal_components(TOY_ITEM_FACTORS[[2, 0, 1]])
    np.testing.assert_allclose(found.places, places, atol=1e-6)
    np.testing.assert_allclose(found.shares, shares, atol=1e-6)
    ratings, model = toy
    assert item_map(ratings.where("item_id < 3"), model) is None


@pytest.mark.spark
def test_names_are_shown_instead_of_ids(spark, toy, caplog):
    ratings, model = toy
    lists = spark.createDataFrame([(1, [(3, 1.5)])], LISTS)
    tables = collect(ratings, model, lists)
    rows = [("1", "Brazil"), ("3", "Alien"), ("3", "Zardoz"), ("2", None), ("9", "Tron"), (None, "Up")]
    names = spark.createDataFrame(rows, "`movie id` string, `the.title` string")
    found = with_item_names(tables, names, ("movie id", "the.title"))
    assert found.matrix.items == ["Brazil", "2", "Alien"]
    assert found.item_map.items == ["Alien", "Brazil", "2"]
    assert {user.user: user.recommended for user in found.samples}["1"] == [ScoredItem("Alien", 1.5)]
    assert {user.user: [item for item, _ in user.top_rated] for user in found.samples}["1"] == ["Brazil", "2"]
    assert replace(found, samples=[], item_map=None, matrix=None) == replace(
        tables, samples=[], item_map=None, matrix=None
    )
    assert not caplog.records
    with pytest.raises(SchemaError, match=r"column 'title' is missing; did you mean 'the.title'"):
        with_item_names(tables, names, ("movie id", "title"))
    with caplog.at_level(logging.WARNING):
        assert with_item_names(tables, names, ("the.title", "movie id")) == tables
    assert "column 'the.title' of report.item_names has none of the 3 items in the report, such as '1'" in caplog.text


@pytest.mark.spark
def test_long_ids_that_look_alike_get_no_name(spark, toy):
    ratings, model = toy
    tables = collect(ratings, model, spark.createDataFrame([], LISTS))
    shortened = "x" * 63 + "…"
    tables = replace(tables, samples=[], item_map=None, matrix=tables.matrix._replace(items=[shortened, "2", "3"]))
    names = spark.createDataFrame([("x" * 70, "one of them"), ("2", "two")], "id string, name string")
    assert with_item_names(tables, names, ("id", "name")).matrix.items == [shortened, "two", "3"]


@pytest.mark.spark
def test_map_shows_ids_that_are_no_utf8(spark):
    ids = "cast(concat(x'FF', encode(cast(id AS string), 'utf-8')) AS string)"
    ratings = spark.range(3).selectExpr("1 AS user_id", f"{ids} AS item_id", "float(1) AS rating", "'train' AS part")
    items = FactorTable.of(spark.range(3).selectExpr(f"{ids} AS id", "array(float(id), float(2)) AS features"))
    assert item_map(ratings, ALSModel(items, items, 2, None)).items == ["\ufffd0", "\ufffd1", "\ufffd2"]


def test_principal_components_are_numpys_eigenvectors():
    rows = np.random.default_rng(0).standard_normal((50, 4)) * [3.0, 2.0, 1.0, 0.5] + 7
    places, shares = principal_components(rows)
    variances, directions = np.linalg.eigh(np.cov(rows.T))
    expected = (rows - rows.mean(axis=0)) @ directions[:, [3, 2]]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(shares, variances[[3, 2]] / variances.sum(), rtol=1e-8)
    assert all(column[np.abs(column).argmax()] > 0 for column in places.T)
    again, _ = principal_components(-rows)
    np.testing.assert_allclose(again.std(axis=0), places.std(axis=0))


@pytest.mark.parametrize(
    ("rows", "shares"), [(np.ones((3, 2)), (0.0, 0.0)), (np.array([[1.0], [2.0], [4.0]]), (1.0, 0.0))]
)
def test_principal_components_of_equal_rows_and_of_rank_1(rows, shares):
    places, found = principal_components(rows)
    assert places.shape == (3, 2)
    np.testing.assert_allclose(found, shares)
    np.testing.assert_allclose(places[:, 1], 0)
