"""Pads factor matrices for the kernels, so that every row fills whole cache lines."""

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.compiled import njit

_LINE_FLOATS = 16
_LINE_BYTES = 64


@njit(cache=True, nogil=True)
def padded_rank(rank):  # type: ignore[no-untyped-def]
    """Rank rounded up to whole cache lines of float32; callable from Python and from compiled code."""
    return (rank + _LINE_FLOATS - 1) // _LINE_FLOATS * _LINE_FLOATS


@njit(cache=True, nogil=True)
def copy(values, target):  # type: ignore[no-untyped-def]
    """Set the first entries of target to values. `target[:n] = values` would take numba 1.5 s longer to compile."""
    for i in range(values.size):
        target[i] = values[i]


def empty_lines(n_floats: int) -> NDArray[np.float32]:
    """Uninitialised float32[n_floats] that starts on a cache line; numpy only aligns arrays to 16 bytes."""
    buffer = np.empty(n_floats + _LINE_FLOATS, np.float32)
    first = -(buffer.ctypes.data // buffer.itemsize) % _LINE_FLOATS
    return buffer[first : first + n_floats]


def pad_factors(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Copy float32[n, rank] into rows of whole cache lines; the added columns are zeros.

    Returns
    -------
    float32[n, padded_rank(rank)]    C-contiguous

    Cost: one copy.
    """
    n_rows, rank = factors.shape
    padded = empty_lines(n_rows * padded_rank(rank)).reshape(n_rows, padded_rank(rank))
    padded[:, :rank] = factors
    padded[:, rank:] = 0.0
    return padded
