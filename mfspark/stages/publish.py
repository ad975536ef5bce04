"""Publish: factor matrices to tables by raw id."""

import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.solvers.exchange import Factors
from mfspark.stages.index import IdIndex


def factor_table(index: IdIndex, factors: Factors) -> DataFrame:
    """Give every row of a factor matrix its raw id.

    Parameters
    ----------
    index : the side's ids
    factors : float32[n_ids, rank], on the driver

    Returns
    -------
    DataFrame    id (the input's type), features array<float>; ascending by id

    Cost: the ids are collected to the driver, where the factors are already; the table is theirs and needs
    neither the ratings nor the caches of training.
    """
    ids = index.table.orderBy("index").select("id").toArrow()["id"].combine_chunks()
    rank = factors.shape[1]
    offsets = pa.array(range(0, factors.size + 1, rank), pa.int64())
    features = pa.LargeListArray.from_arrays(offsets, pa.array(factors.ravel()))
    table = pa.table({"id": ids, "features": features.cast(pa.list_(pa.float32()))})
    return index.table.sparkSession.createDataFrame(table)
