"""Computes the normal equation A x = b of one destination row.

A is a flat, row-major K × K array with K = padded_rank(rank); only its 16 × 16 blocks on and above the diagonal are
computed. The right-hand side b comes directly after A in the same array, `equation`, so that both are cleared and
added up together.
"""

import numpy as np

from mfspark.kernels.compiled import njit
from mfspark.kernels.padding import copy, padded_rank
from mfspark.kernels.tiles import (
    gather_gram_8x1_with_b,
    gather_gram_12x1_with_b,
    gather_gram_16x1,
    gather_gram_16x1_with_b,
    gather_gram_16x2,
    gather_gram_16x2_with_b,
)

# Every tile of A in turn reads the source rows of this many ratings: 64 rows of 256 bytes stay in the L1 cache.
_PASS = 64
# Sums of more ratings than this are continued in float64. With 67,000 ratings the measured relative error of x was 3e-5
# in float32 alone, and 5e-6 this way.
_FLOAT32_SUM = 4096


@njit(cache=True, nogil=True)
def accumulate(Y, rank, ratings, row, equation, long_sums):  # type: ignore[no-untyped-def]
    """Fill A = Σ w y yᵀ and b = Σ t y over the ratings of a row.

    Parameters
    ----------
    Y : float32[n_src, K]            source factors, padded rows
    ratings : Ratings                of the block
    row : Row
    equation : float32[K·K + K]      out: A and b
    long_sums : float64[K·K + K]     scratch

    Cost: n_ratings·rank² / 2 multiply-adds.
    """
    start, end = row.start, row.end
    is_long = end - start > _FLOAT32_SUM
    equation[:] = 0
    if is_long:
        long_sums[:] = 0
    for first in range(start, end, _FLOAT32_SUM):
        last = min(first + _FLOAT32_SUM, end)
        for entry in range(first, last, _PASS):
            _add_pass(Y, rank, ratings, entry, min(_PASS, last - entry), equation)
        if is_long:
            for i in range(long_sums.size):
                long_sums[i] += equation[i]
            equation[:] = 0
    if is_long:
        copy(long_sums, equation)


@njit(cache=True, nogil=True)
def add_penalty(A, rank, row, penalty):  # type: ignore[no-untyped-def]
    """Add the terms that do not depend on the ratings, A += G + n·diag(λ), and set the diagonal of the padding to 1."""
    K = padded_rank(rank)
    _add_gram(A, K, penalty.gram)
    scale, regularization = row.scale, penalty.regularization
    for i in range(K):
        A[i * K + i] = A[i * K + i] + np.float32(scale * regularization[i]) if i < rank else np.float32(1)


@njit(cache=True, nogil=True)
def _add_gram(A, K, gram):  # type: ignore[no-untyped-def]
    if gram is not None:
        for i in range(K * K):
            A[i] += gram[i]


@njit(cache=True, nogil=True)
def _add_pass(Y, rank, ratings, start, count, equation):  # type: ignore[no-untyped-def]
    """Add A += Y_pᵀ W_p Y_p and b += Y_pᵀ t_p for the source rows Y_p of `count` ratings, tile by tile."""
    K = padded_rank(rank)
    src, targets, weights, b = ratings.src, ratings.targets, ratings.weights, equation[K * K :]
    # The fastest distance measured: two passes ahead for a small rank, the next pass for a larger one.
    distance = 32 if K <= 32 else _PASS
    last = src.size - 1
    if rank <= 8:
        gather_gram_8x1_with_b(Y, 0, 0, K, src, start, count, equation, 0, targets, weights, b, distance, last)
        return
    if rank <= 12:
        gather_gram_12x1_with_b(Y, 0, 0, K, src, start, count, equation, 0, targets, weights, b, distance, last)
        return
    column = K // 16 % 2 * 16
    if column:
        gather_gram_16x1_with_b(Y, 0, 0, K, src, start, count, equation, 0, targets, weights, b, distance, last)
    for j in range(column, K, 32):
        gather_gram_16x2_with_b(Y, 0, j, K, src, start, count, equation, j, targets, weights, b, distance, last)
    for i in range(16, K, 16):
        j = i
        if (K - i) // 16 % 2:
            gather_gram_16x1(Y, i, i, K, src, start, count, equation, i * K + i, targets, weights, b, distance, last)
            j += 16
        for column in range(j, K, 32):
            gather_gram_16x2(
                Y, i, column, K, src, start, count, equation, i * K + column, targets, weights, b, distance, last
            )
