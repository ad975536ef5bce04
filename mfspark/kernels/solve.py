"""Solvers of one symmetric positive definite system."""

import numpy as np

from mfspark.kernels.compiled import njit
from mfspark.kernels.padding import padded_rank
from mfspark.kernels.tiles import (
    assign_product_1x1,
    assign_product_16x1,
    factor_8,
    factor_12,
    factor_16,
    subtract_product_1x1,
    subtract_product_16x1,
    subtract_product_16x2,
    subtract_row_products,
)

# A float32 pivot below this share of its diagonal entry has lost three of its seven digits: the row is solved again in
# float64.
_FLOAT32_PIVOT = 2.0**-10
# A float64 pivot below this share is only rounding error.
_FLOAT64_PIVOT = 1e-13


@njit(cache=True, nogil=True)
def solve_float32(A, rank, b, U_inverses, smallest):  # type: ignore[no-untyped-def]
    """Solve A x = b by A = Uᵀ U, in place: A becomes U, b becomes x.

    It works on block rows of 16 and keeps the inverse of each diagonal block, so that triangular solves become small
    products (Golub, Van Loan, Matrix Computations, 4th ed., section 4.2.9).

    Parameters
    ----------
    A : float32[K·K]              upper block triangle; identity in the padding; see `normal_equation`
    b : float32[K]
    U_inverses : float32[32·K]    scratch
    smallest : float32[K]         scratch

    Returns
    -------
    bool    False if a pivot is too small for float32; A and b are then meaningless

    Cost: rank³ / 6 + 2·rank² multiply-adds.
    """
    K = padded_rank(rank)
    for i in range(K):
        smallest[i] = A[i * K + i] * np.float32(_FLOAT32_PIVOT)
    if not _factor(A, K, rank, U_inverses, smallest):
        return False
    substitute(A, K, U_inverses, b)
    return True


@njit(cache=True, nogil=True)
def solve_float64(A, b):  # type: ignore[no-untyped-def]
    """Solve A x = b by A = L Lᵀ, in place: A becomes L, b becomes x. Only the lower triangle is read.

    Parameters
    ----------
    A, b : float64[rank, rank], float64[rank]

    Returns
    -------
    bool    False if A is not positive definite in float64; b is then meaningless

    Cost: rank³ / 6 + rank² multiply-adds.
    """
    rank = b.size
    for j in range(rank):
        diagonal = A[j, j]
        pivot = diagonal
        for p in range(j):
            pivot -= A[j, p] * A[j, p]
        if not pivot > _FLOAT64_PIVOT * diagonal:
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


@njit(cache=True, nogil=True)
def _factor(A, K, rank, W, smallest):  # type: ignore[no-untyped-def]
    """Replace A (upper part) by U; write W_I = U_II⁻ᵀ and its transpose to W[32·i:32·i + 512] for block row i."""
    for i in range(0, K, 16):
        j = i
        if i and (K - i) // 16 % 2:
            subtract_product_16x1(A, i, K, A, i, K, i, A, i * K + i)
            j += 16
        if i:
            for column in range(j, K, 32):
                subtract_product_16x2(A, i, K, A, column, K, i, A, i * K + column)
        if rank - i <= 8:
            bad_pivots = factor_8(A, i * K + i, K, W, i * 32, smallest[i:])
        elif rank - i <= 12:
            bad_pivots = factor_12(A, i * K + i, K, W, i * 32, smallest[i:])
        else:
            bad_pivots = factor_16(A, i * K + i, K, W, i * 32, smallest[i:])
        if bad_pivots:
            return False
        for column in range(i + 16, K, 16):  # U_IJ = W_I A_IJ
            assign_product_16x1(W, i * 32 + 256, 16, A, i * K + column, K, 16, A, i * K + column)
    return True


@njit(cache=True, nogil=True)
def substitute(U, K, W, x):  # type: ignore[no-untyped-def]
    """Solve Uᵀ U x = b in place (x is b on entry), with U and W from the A and U_inverses of `solve_float32`."""
    for i in range(0, K, 16):
        assign_product_1x1(x, i, 1, W, i * 32 + 256, 16, 16, x, i)  # z_I = W_I b_I
        for j in range(i + 16, K, 16):
            subtract_product_1x1(x, i, 1, U, i * K + j, K, 16, x, j)  # b_J −= U_IJᵀ z_I
    for i in range(K - 16, -1, -16):
        if i + 16 < K:  # z_I −= U_IJ x_J
            subtract_row_products(U, i * K + i + 16, K, (K - i) // 16 - 1, x, i + 16, i)  # type: ignore[call-arg]  # the compiler passes the first
        assign_product_1x1(x, i, 1, W, i * 32, 16, 16, x, i)  # x_I = W_Iᵀ z_I
