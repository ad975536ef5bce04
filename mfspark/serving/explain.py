"""Explain: the contribution of each of a user's ratings to a prediction."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql.types import FloatType, StructField, StructType

from mfspark.blocks.encode import count_unusable, require_usable
from mfspark.errors import ConfigError, DataError, NumericalError
from mfspark.kernels.csr import build_packed_block, pack_weights
from mfspark.serving.ids import with_ids_in
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.factor_tables import FactorTable
from mfspark.training.objective import centered, equations
from mfspark.training.rows import gram_of


def explain(ratings: DataFrame, target: object, items: FactorTable, solver: AlternatingLeastSquares) -> DataFrame:
    """The contribution of each rating of one user to the prediction for one item.

    The user's factors x = A⁻¹ Σ t y are a sum over the ratings, and so is the prediction y·x: a rating of item j adds
    y·A⁻¹ t_j y_j (Hu, Koren, Volinsky, ICDM 2008, section 5).

    Parameters
    ----------
    ratings : user_id, item_id, rating float, optionally weight float; all of one user. Ratings of items without factors
        are ignored
    target : id of the item
    items : item factors
    solver : solver for the objective that the factors were trained for

    Returns
    -------
    DataFrame    item_id, contribution float, largest first. They add up to the prediction, without the mean and the
                 item's own bias if there are biases

    Raises
    ------
    ConfigError       nonnegative factors, because they are not a sum over the ratings
    DataError         unusable ratings, no rating of an item with factors, or a target without factors
    NumericalError    the user's normal equation has no unique solution

    Runs on the driver, which collects the user's ratings and the items' factors.
    """
    if solver.solver == "nonnegative":
        raise ConfigError("predictions of nonnegative factors are not a sum over ratings; train without nonnegative")
    item_type = items.id_type
    table = with_ids_in(items, ratings, "item_id").toArrow()
    require_usable(Counter(count_unusable(table)))
    ids, factors = items.collect()
    positions = pc.index_in(table["item_id"].cast(ids.type), value_set=ids).combine_chunks()
    place = _place(ids, target)
    table = table.append_column("src", positions).filter(positions.is_valid())
    if table.num_rows == 0:
        raise DataError("this user rated no item that the model knows; expected at least one")
    src = table["src"].to_numpy()
    values = table["rating"].to_numpy()
    if "weight" in table.column_names:
        values = pack_weights(values, table["weight"].to_numpy())
    packed = build_packed_block(0, 1, len(ids), np.zeros(src.size, np.int32), src, values, None)
    source = solver.source(factors, gram_of(factors) if solver.needs_gram else None)
    block = centered(solver.objective, packed.unpack(), source)
    system = equations(solver.objective, solver.regularization, "user", solver.n_columns, block, source)
    n_columns = solver.n_columns
    rated = source.factors.matrix[block.src, :n_columns].astype(np.float64)
    weights = np.ones(len(rated)) if system.weights is None else system.weights.astype(np.float64)
    matrix = (rated.T * weights) @ rated + np.diag(system.scales[0] * system.regularization[:n_columns])
    if system.gram is not None:
        matrix += system.gram.reshape(source.factors.matrix.shape[1], -1)[:n_columns, :n_columns]
    try:
        direction = np.linalg.solve(matrix, source.factors.matrix[place, :n_columns].astype(np.float64))
    except np.linalg.LinAlgError as error:
        raise NumericalError(
            f"the normal equation of this user has no unique solution (rank {solver.rank}, {len(rated)} ratings)"
        ) from error
    contributions = (rated @ direction * system.targets).astype(np.float32)
    order = np.argsort(-contributions, kind="stable")
    rows = pa.table({"item_id": ids.take(pa.array(block.src[order])), "contribution": contributions[order]})
    schema = StructType([StructField("item_id", item_type), StructField("contribution", FloatType())])
    return ratings.sparkSession.createDataFrame(rows, schema)


def _place(ids: pa.Array, target: object) -> int:
    """Position of an id; raise DataError if it is not there or has another type."""
    try:
        place: int = pc.index(ids, pa.scalar(target, ids.type)).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        place = -1
    if place < 0:
        raise DataError(f"the model has no factors for item {target!r}")
    return place
