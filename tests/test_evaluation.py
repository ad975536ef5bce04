"""What the functions of evaluation refuse; their results are tested beside `tables/`."""

import pytest
from pyspark.sql import functions as F

from mfspark import evaluation
from mfspark.errors import ConfigError, SchemaError

pytestmark = pytest.mark.spark


def test_splits_without_meaning_are_refused(spark):
    ratings = spark.createDataFrame([(1, "x", 4.0, 7)], "user int, item string, rating float, at long")
    with pytest.raises(ConfigError, match="unknown key 'holdot'; did you mean 'holdout'"):
        evaluation.split(ratings, holdot=0.1)
    with pytest.raises(ConfigError, match="method: Input should be 'random'"):
        evaluation.split(ratings, "sample")
    with pytest.raises(ConfigError, match="method 'time' needs the name of a timestamp column"):
        evaluation.split(ratings, "time")
    with pytest.raises(ConfigError, match="'column' and a fold column go together"):
        evaluation.split(ratings, "random", fold="at")
    with pytest.raises(SchemaError, match="column 'part' already exists"):
        evaluation.split(ratings.withColumn("part", F.lit(1)))
    with pytest.raises(SchemaError, match="column 'when' is missing"):
        evaluation.split(ratings, "time", timestamp="when")
    with pytest.raises(SchemaError, match="fold column 'rating' must have integers or strings, found float"):
        evaluation.split(ratings, "column", fold="rating", holdout_fold=1)


def test_lists_have_at_least_one_place(spark):
    empty = spark.createDataFrame([], "user int, item int, recommendations array<struct<item int>>")
    for call in (
        lambda: evaluation.ranking_metrics(empty, empty, 0),
        lambda: evaluation.catalogue_metrics(empty, empty, 0),
        lambda: evaluation.popular_lists(empty, 0),
    ):
        with pytest.raises(ConfigError, match="k must be at least 1, found 0"):
            call()
