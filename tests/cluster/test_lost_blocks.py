"""Blocks that Spark loses and builds again.

They are lost in a session of this process, which is used for nothing else: Spark does not get over it unharmed.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mfspark import ALS, SGD
from mfspark.errors import DataError
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.sgd import StochasticGradientDescent
from tests.asserts import assert_same_bytes, factors_by_id
from tests.builders import random_ratings, ratings_table

pytestmark = [pytest.mark.cluster, pytest.mark.classic]

USERS, ITEMS, VALUES = random_ratings(seed=12, n_users=30, n_items=15, n_ratings=200)
TRAININGS = {
    "explicit": ALS(engine="rdd"),
    "implicit": ALS(engine="rdd", implicitPrefs=True),
    "wide users": ALS(engine="rdd", maxBroadcastBytes=4 * 3 * 20),
    "SGD": SGD(engine="rdd", numBlocks=2),
}


# What is added to the ratings, or to the ids, of some users when the input is read again.
CHANGES = {"other ratings": (1.0, 0, 0), "other users": (0.0, 1000, 0), "other items": (0.0, 0, 1000)}


def changed(path, batches):
    """The ratings, with what a file now says added to those of one user in three."""
    rating, user, item = CHANGES.get(path.read_text(), (0.0, 0, 0))
    for batch in batches:
        is_chosen = batch["user"].to_numpy() % 3 == 0
        columns = [batch["user"].to_numpy() + user * is_chosen, batch["item"].to_numpy() + item * is_chosen]
        columns.append((batch["rating"].to_numpy() + rating * is_chosen).astype(np.float32))
        yield pa.RecordBatch.from_arrays(
            [pa.array(column).cast(old.type) for column, old in zip(columns, batch, strict=True)], schema=batch.schema
        )


@pytest.fixture
def lose_blocks(spark, monkeypatch):
    """Before the second iteration, all that Spark keeps is lost, as with the executors; then `happen` is called."""

    def prepare(happen):
        def losing(iterate, algorithm, ratings, state, label):
            if len(state.history) == 1:
                _lose_everything(spark.sparkContext)
                happen()
            return iterate(algorithm, ratings, state, label)

        for algorithm in (AlternatingLeastSquares, StochasticGradientDescent):
            found = partial(losing, algorithm.iterate)
            monkeypatch.setattr(algorithm, "iterate", lambda *call, found=found: found(*call))

    return prepare


def _lose_everything(context):
    for rdd in context._jsc.getPersistentRDDs().values():
        rdd.rdd().unpersist(True)
    files = list(Path(context.getConf().get("spark.local.dir")).rglob("shuffle_*"))
    assert files
    for file in files:
        file.unlink()


@pytest.fixture
def unsteady(spark, tmp_path):
    """Ratings that are read anew from an input that changes, and what changes it."""
    path = tmp_path / "change"
    path.write_text("none")
    table = spark.createDataFrame(ratings_table(USERS, ITEMS, VALUES)).repartition(3)
    return table.mapInArrow(partial(changed, path), table.schema), path.write_text


@pytest.mark.parametrize("name", TRAININGS)
def test_lost_blocks_are_built_again_to_the_same_bytes(unsteady, lose_blocks, forget, name):
    ratings, _write = unsteady
    settings = {"rank": 3, "maxIter": 3, "seed": 1}
    expected = forget(TRAININGS[name].copy().setParams(**settings).fit(ratings))
    lose_blocks(lambda: None)
    found = forget(TRAININGS[name].copy().setParams(**settings).fit(ratings))
    for table in ("userFactors", "itemFactors"):
        assert_same_bytes(*(factors_by_id(getattr(model, table)) for model in (found, expected)))


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("change", CHANGES)
def test_lost_blocks_of_an_input_that_has_changed_are_one_clear_error(unsteady, lose_blocks, change, name):
    ratings, write = unsteady
    lose_blocks(lambda: write(change))
    message = r"the ratings changed while they were used: .* rand\(\), .* write the ratings to a table, or checkpoint"
    with pytest.raises(DataError, match=message):
        TRAININGS[name].copy().setParams(rank=3, maxIter=3, seed=1).fit(ratings)
