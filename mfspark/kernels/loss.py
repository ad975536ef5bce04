"""The two parts of the training objective  Σ (r − x·y)² + λ Σ (|x|² + |y|²), both over observed ratings."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mfspark.kernels.csr import InBlock


def squared_error(in_block: InBlock, dst_factors: NDArray[np.float32], src_factors: NDArray[np.float32]) -> float:
    """Σ (r − x·y)² over the ratings of one in-block.

    Parameters
    ----------
    in_block : ratings by destination row
    dst_factors : float32[n_rows, rank], of this block's rows only
    src_factors : float32[n_src, rank], of all source rows

    Cost: n_ratings·rank multiply-adds; dot products in float32, their squares summed in float64. Runs on executors.
    """
    return float(_squared_error(in_block.offsets, in_block.src, in_block.ratings, dst_factors, src_factors.ravel()))


def penalty(in_block: InBlock, dst_factors: NDArray[np.float32]) -> float:
    """Σ n |x|² over the rows of one in-block, n being the row's number of ratings; λ is not included.

    It is this side's half of Σ (|x|² + |y|²) over observed ratings. Cost: O(n_rows·rank). Runs on executors.
    """
    n_ratings = np.diff(in_block.offsets)
    return float(n_ratings @ np.square(dst_factors, dtype=np.float64).sum(axis=1))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # lets the dot product vectorise
def _rating_error(Y, first, K, rating, x):  # type: ignore[no-untyped-def]
    """Error r − x·y in float32; y are the K floats of Y from the unsigned offset `first`."""
    prediction = np.float32(0)
    for i in range(K):
        prediction += Y[first + np.uint64(i)] * x[np.uint64(i)]
    return rating - prediction


@njit(cache=True, nogil=True)
def _row_squared_error(Y, K, src, ratings, start, end, x):  # type: ignore[no-untyped-def]
    """Σ (r − x·y)² over the ratings start .. end-1 of one row.

    Y : float32[n_src·K], flat; x : float32[K]. Dot products in float32, their squares summed in float64.
    """
    total = 0.0
    for entry in range(start, end):
        first = np.uint64(src[entry]) * np.uint64(K)  # unsigned: no check for negative indices
        error = _rating_error(Y, first, K, ratings[entry], x)
        total += np.float64(error) * np.float64(error)
    return total


@njit(cache=True, nogil=True)
def _squared_error(offsets, src, ratings, X, Y):  # type: ignore[no-untyped-def]
    K = X.shape[1]
    total = 0.0
    for row in range(offsets.size - 1):
        total += _row_squared_error(Y, K, src, ratings, offsets[row], offsets[row + 1], X[row])
    return total
