"""Initial factors, which depend only on the seed and the row, not on blocks, partitions or the order of the ratings."""

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from mfspark.kernels.compiled import njit

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_TWO_TO_MINUS_53 = 2.0**-53


def initial_factors(seed: int, rows: range, rank: int) -> NDArray[np.float32]:
    """Random rows of length 1, as in Spark's ALS: each row is a standard normal vector divided by its length.

    Parameters
    ----------
    seed : any integer; taken modulo 2^64
    rows : the rows to make, a range with step 1

    Returns
    -------
    float32[n_rows, rank]

    The random bits come from SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, section 3); the method of Box and Muller
    (1958) makes normal numbers of them. Cost: O(n_rows·rank).
    """
    return _unit_normal_rows(np.uint64(seed % 2**64), rows.start, len(rows), rank)  # type: ignore[no-any-return]


@njit(cache=True)
def _unit_normal_rows(seed, first_row, n_rows, rank):  # type: ignore[no-untyped-def]
    factors = np.empty((n_rows, rank), np.float32)
    row = np.empty(rank)
    for index in range(n_rows):
        state = _mix(seed ^ _mix(uint64(first_row + index)))
        length = 0.0
        for i in range(rank):
            state += _GOLDEN_GAMMA
            radius = np.sqrt(-2.0 * np.log(1.0 - _uniform(_mix(state))))
            state += _GOLDEN_GAMMA
            row[i] = radius * np.cos(2.0 * np.pi * _uniform(_mix(state)))
            length += row[i] * row[i]
        length = np.sqrt(length)
        for i in range(rank):
            factors[index, i] = row[i] / length
    return factors


@njit(cache=True)
def _uniform(bits):  # type: ignore[no-untyped-def]
    """Map 64 random bits to [0, 1)."""
    return (bits >> uint64(11)) * _TWO_TO_MINUS_53


@njit(cache=True)
def _mix(bits):  # type: ignore[no-untyped-def]
    bits = (bits ^ (bits >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> uint64(27))) * uint64(0x94D049BB133111EB)
    return bits ^ (bits >> uint64(31))
