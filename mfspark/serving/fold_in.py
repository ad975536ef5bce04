"""Fold in: factors of users or items that training never saw, from their ratings and the factors of the other side."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.blocks.encode import count_unusable, require_usable
from mfspark.blocks.records import RatingBlock, Side
from mfspark.engine.arrow import shown
from mfspark.engine.choice import executors_engine, read_small
from mfspark.engine.engine import Sent
from mfspark.errors import DataError, NumericalError
from mfspark.kernels.csr import build_packed_block, pack_weights
from mfspark.serving.ids import with_ids_in
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.exchange import Factors, Source
from mfspark.training.factor_tables import FactorTable, factor_matrix, factor_table
from mfspark.training.rows import gram_of, overflowed_row


class _Fixed(NamedTuple):
    """The fixed side; sent to all tasks."""

    ids: pa.Array
    source: Source


class _Folded(NamedTuple):
    """The new rows of one partition."""

    ids: pa.Array
    factors: Factors
    singular_row: int
    """Position of an id whose normal equation has no unique solution; -1 if there is none."""
    n_unusable: Counter[str]
    """Number of unusable ratings by reason; if there are any, no row is solved."""


def fold_in(ratings: DataFrame, side: Side, fixed: FactorTable, solver: AlternatingLeastSquares) -> FactorTable:
    """Solve the rows of one side from their ratings, with the other side fixed: one exact half-iteration.

    Parameters
    ----------
    ratings : user_id, item_id, rating float; optionally weight float. Ratings of ids that are not in `fixed` are
        ignored
    side : the side to solve
    fixed : factors of the other side
    solver : exact solver for the objective that the factors of `fixed` were trained for

    Returns
    -------
    FactorTable    every id of the side that has a rating of an id in `fixed`, in ascending order

    Raises
    ------
    DataError         unusable ratings, or no rating of an id in `fixed`
    NumericalError    the normal equation of an id has no unique solution, or its factors overflow

    Cost: a shuffle of the ratings by id and n_ratings·rank² multiply-adds; collects the factors of `fixed` (of a large
    table, of the ids that have ratings), sends them to all tasks, and collects the new ones. Few ratings are solved on
    the driver. Runs at once, not lazily.
    """
    spark = ratings.sparkSession
    own, other = ("user_id", "item_id") if side == "user" else ("item_id", "user_id")
    usable = with_ids_in(fixed, ratings, other)
    fixed_side = _fixed(fixed, solver, usable.select(F.col(other).alias("id")))
    by_row = read_small(usable)
    batches = executors_engine(spark).read(usable.repartition(own)) if by_row is None else by_row.in_one_part()
    engine = batches.engine
    with engine.named(f"fold in: {side} factors"):
        sent = engine.send(fixed_side)
        try:
            parts = batches.run(partial(_fold_part, sent, side, solver))
        finally:
            sent.drop()
    require_usable(sum((part.n_unusable for part in parts), Counter()))
    for part in parts:
        if part.singular_row >= 0:
            raise NumericalError(
                f"the normal equation of {side} {shown(part.ids, part.singular_row)} has no unique solution (rank "
                f"{solver.rank}); add ratings of this {side}, or train with a higher regParam"
            )
    if not parts:
        raise DataError(
            f"no rating has a known {other.removesuffix('_id')}; expected at least one that the model was trained on"
        )
    new_ids = pa.concat_arrays([part.ids for part in parts])
    new_factors = np.concatenate([part.factors for part in parts])
    overflowed = overflowed_row(new_factors)
    if overflowed >= 0:
        raise NumericalError(
            f"the factors of {side} {shown(new_ids, overflowed)} overflowed float32; scale its ratings down"
        )
    order = pc.sort_indices(new_ids)
    id_type = ratings.schema[own].dataType
    return factor_table(engine, new_ids.take(order), new_factors[order.to_numpy()], solver.rank, id_type)


def _fixed(table: FactorTable, solver: AlternatingLeastSquares, wanted: DataFrame) -> _Fixed:
    """The fixed side; of a table that is not in the driver's memory only these ids."""
    if table.n_local_rows is not None:
        ids, factors = table.collect()
        return _Fixed(ids, solver.source(factors, gram_of(factors) if solver.needs_gram else None))
    sums = table.batches.map(partial(_sum_rows, solver.needs_gram)).reduce(_added)
    gram, n_rows = (None, 0) if sums is None else sums
    ids, factors = table.only(wanted.distinct()).collect()
    return _Fixed(ids, solver.source(factors, gram, n_rows))


_Sums = tuple[NDArray[np.float64] | None, int]
"""Gram matrix, if it is needed, and number of some rows."""


def _sum_rows(needs_gram: bool, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[_Sums]:
    """Executor: the sums of each batch."""
    for batch in batches:
        if batch.num_rows:
            yield gram_of(factor_matrix(batch)) if needs_gram else None, batch.num_rows


def _added(left: _Sums, right: _Sums) -> _Sums:
    return None if left[0] is None else left[0] + np.asarray(right[0]), left[1] + right[1]


def _fold_part(
    sent: Sent[_Fixed], side: Side, solver: AlternatingLeastSquares, _: int, batches: Iterable[pa.RecordBatch]
) -> Iterator[_Folded]:
    """Executor: all ratings of some rows in; their factors out."""
    arrived = list(batches)
    if not arrived:
        return
    table, fixed = pa.Table.from_batches(arrived), sent.value
    n_unusable = Counter(count_unusable(table))
    own, other = ("user_id", "item_id") if side == "user" else ("item_id", "user_id")
    src = pc.index_in(table[other], value_set=fixed.ids.cast(table[other].type))
    table = table.append_column("src", src).filter(src.is_valid()).slice(0, 0 if n_unusable else None)
    rows = table[own].combine_chunks().dictionary_encode()
    n_rows = len(rows.dictionary)
    if n_rows == 0:
        if n_unusable:
            yield _Folded(rows.dictionary, np.empty((0, solver.n_columns), np.float32), -1, n_unusable)
        return
    values = table["rating"].to_numpy()
    if "weight" in table.column_names:
        values = pack_weights(values, table["weight"].to_numpy())
    block = build_packed_block(
        0, n_rows, len(fixed.ids), rows.indices.to_numpy(), table["src"].to_numpy(), values, None
    )
    old = np.zeros((n_rows, solver.n_columns), np.float32) if solver.starts_from_old else None
    solved = solver.update_block(side, RatingBlock(block, block.part(0, 0)), fixed.source, old)
    yield _Folded(rows.dictionary, solved.factors, solved.singular_row, n_unusable)
