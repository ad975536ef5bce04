"""The documentation: its code runs, and its tables are complete."""

import re

import pytest
from pyspark.ml import recommendation as spark_ml

from tests.builders import random_ratings, ratings_table
from tests.conftest import PROJECT

pytestmark = pytest.mark.spark

PAGE = (PROJECT / "docs/from-spark-als.md").read_text(encoding="utf-8")


def test_the_migration_example_runs(spark, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    data = ratings_table(*random_ratings(seed=2, n_users=40, n_items=25, n_ratings=500))
    names = {"ratings": spark.createDataFrame(data), "path": str(tmp_path / "model")}
    exec(code, names)
    assert 0 < names["rmse"] < 5
    assert names["same"].rank == 8
    assert names["best"].count() == names["unseen"].count() == names["model"].userFactors.count()
    assert names["for_newcomers"].where("user >= 1000").count() == names["some"].count()
    assert names["tonight"].summary.objective_history[-1] > 0


@pytest.mark.usefixtures("spark")
def test_every_parameter_and_method_of_sparks_is_on_the_page():
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    tables = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", prose))))
    assert {param.name for param in spark_ml.ALS().params} <= tables
    for owner in (spark_ml.ALS, spark_ml.ALSModel):
        accessors = {name for name in dir(owner) if re.fullmatch(r"[gs]et[A-Z]\w*", name)}
        public = {name for name in dir(owner) if not name.startswith("_")} - accessors
        assert public - tables <= {param.name for param in spark_ml.ALS().params}
