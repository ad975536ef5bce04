"""Solvers of one symmetric positive definite system."""

import numpy as np
from numba import njit

# A pivot below this share of its diagonal entry is rounding, not information: 2^-52 times a margin for
# the sums that lead to it.
_PIVOT_TOLERANCE = 1e-13


@njit(cache=True, nogil=True)
def cholesky_solve(A, b):  # type: ignore[no-untyped-def]
    """Solve A x = b by A = L Lᵀ, in place: A becomes L, b becomes x. Only the lower triangle is read.

    Parameters
    ----------
    A, b : float64[rank, rank], float64[rank]

    Returns
    -------
    bool    False when A is not positive definite to working precision; b is then meaningless

    Cost: rank³ / 6 + rank² multiply-adds.
    """
    rank = b.size
    for j in range(rank):
        diagonal = A[j, j]
        pivot = diagonal
        for p in range(j):
            pivot -= A[j, p] * A[j, p]
        if not pivot > _PIVOT_TOLERANCE * diagonal:
            return False
        root = np.sqrt(pivot)
        A[j, j] = root
        for i in range(j + 1, rank):
            dot = A[i, j]
            for p in range(j):
                dot -= A[i, p] * A[j, p]
            A[i, j] = dot / root
    for i in range(rank):
        for p in range(i):
            b[i] -= A[i, p] * b[p]
        b[i] /= A[i, i]
    for i in range(rank - 1, -1, -1):
        for p in range(i + 1, rank):
            b[i] -= A[p, i] * b[p]
        b[i] /= A[i, i]
    return True
