"""Publish: factor matrices to tables by raw id."""

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from mfspark.solvers.exchange import Factors


def factor_table(spark: SparkSession, ids: pa.Array, factors: Factors) -> DataFrame:
    """Give every row of a factor matrix its raw id.

    Parameters
    ----------
    ids : n_ids raw ids, in the order of the rows
    factors : float32[n_ids, rank], on the driver

    Returns
    -------
    DataFrame    id (the input's type), features array<float>; in the order of the rows

    The table needs neither the ratings nor the caches of training.
    """
    rank = factors.shape[1]
    offsets = pa.array(range(0, factors.size + 1, rank), pa.int64())
    features = pa.LargeListArray.from_arrays(offsets, pa.array(factors.ravel()))
    return spark.createDataFrame(pa.table({"id": ids, "features": features.cast(pa.list_(pa.float32()))}))
