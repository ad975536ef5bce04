"""Computes the squared error of factors."""

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.compiled import njit
from mfspark.kernels.csr import InBlock


def squared_error(
    in_block: InBlock,
    dst_factors: NDArray[np.float32],
    src_factors: NDArray[np.float32],
    targets: NDArray[np.float32],
    weights: NDArray[np.float32] | None,
) -> float:
    """Σ w (t − x·y)² over the ratings of one in-block.

    Parameters
    ----------
    in_block : ratings by destination row; only their sources are used, not their values
    dst_factors : float32[n_rows, rank], factors of this block's rows only
    src_factors : float32[n_src, rank], factors of all source rows
    targets, weights : float32[n_ratings]; weights None: all 1

    Dot products are in float32; the squares are summed in float64. Cost: n_ratings·rank multiply-adds. Runs on
    executors.
    """
    return float(_squared_error(in_block.offsets, in_block.src, targets, weights, dst_factors, src_factors.ravel()))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # lets the dot product vectorise
def _rating_error(Y, first, rank, target, x):  # type: ignore[no-untyped-def]
    """The error t − x·y in float32; y is the part of Y of length `rank` from the unsigned offset `first`."""
    prediction = np.float32(0)
    for i in range(rank):
        prediction += Y[first + np.uint64(i)] * x[np.uint64(i)]
    return target - prediction


@njit(cache=True, nogil=True)
def _squared_error(offsets, src, targets, weights, X, Y):  # type: ignore[no-untyped-def]
    rank = X.shape[1]
    squared_error = 0.0
    for row in range(offsets.size - 1):
        for entry in range(offsets[row], offsets[row + 1]):
            first = np.uint64(src[entry]) * np.uint64(rank)  # unsigned: no check for negative indices
            error = np.float64(_rating_error(Y, first, rank, targets[entry], X[row]))
            squared_error += error * error if weights is None else weights[entry] * error * error
    return squared_error
