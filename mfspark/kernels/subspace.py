"""The half-iteration of ALS over one in-block by subspaces: 16 columns of each destination row at a time."""

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.als import (
    SolvedRows,
    error_and_gradient,
    has_no_targets,
    is_underdetermined,
    require_padded,
    require_rows,
    sum_float64,
)
from mfspark.kernels.compiled import njit
from mfspark.kernels.csr import InBlock
from mfspark.kernels.equations import Equations
from mfspark.kernels.padding import copy, empty_lines, padded_rank
from mfspark.kernels.solve import solve_float32, solve_float64
from mfspark.kernels.tiles import gather_gram_16x1_with_b

_WIDTH = 16
# Ratings whose source rows are summed in float32 before they are added up.
_PASS = 4096


def solve_by_subspaces(
    in_block: InBlock,
    src_factors: NDArray[np.float32],
    dst_factors: NDArray[np.float32],
    equations: Equations,
) -> SolvedRows:
    """Improve all destination rows of one in-block, 16 coordinates after 16, each 16 exactly, the others held fixed.

    iALS++ (Rendle, Krichene, Zhang, Koren, 2021, algorithm 2): what a rating lacks, t − w x·y, is kept up to date, so a
    step costs a 16 × 16 system instead of one of the whole rank. The objective never rises; at a rank of at most 16
    the solution is exact.

    Parameters
    ----------
    in_block, src_factors, equations : as for `solve_exactly`
    dst_factors : float32[n_rows, rank], of this block's rows before; left alone

    Returns
    -------
    SolvedRows    a row without ratings is all zeros; singular where a 16 × 16 system is, or where λ and G are 0 and
        there are fewer ratings than the rank

    Cost: n_ratings·rank·(16 + 4) multiply-adds. Runs on executors.
    """
    rank = dst_factors.shape[1]
    require_padded(src_factors, rank, in_block)
    require_rows(dst_factors, in_block)
    X = dst_factors.astype(np.float32, order="C")
    K = padded_rank(rank)
    squared_error, singular_row = _solve_by_subspaces(
        in_block.offsets, in_block.src, src_factors.ravel(), X, *equations, empty_lines(18 * K), empty_lines(52 * 16)
    )
    return SolvedRows(X, squared_error, singular_row)


@njit(cache=True, nogil=True)
def _solve_by_subspaces(  # type: ignore[no-untyped-def]
    offsets, src, Y, X, targets, weights, constants, scales, regularization, gram, sums, system
):
    """Sums : float32[18·K], system : float32[52·16], scratch."""
    rank = X.shape[1]
    K = padded_rank(rank)
    x, gradient = np.zeros(K, np.float32), np.empty(K, np.float32)
    lacking = np.empty_like(targets)
    error = 0.0
    for row in range(offsets.size - 1):
        start, end, scale = offsets[row], offsets[row + 1], scales[row]
        if start == end:
            X[row] = 0
            continue
        if has_no_targets(targets, start, end):
            X[row] = 0
            error += 0.0 if constants is None else constants[row]
            continue
        if is_underdetermined(end - start, rank, scale, regularization, gram):
            return error, row
        copy(X[row], x)
        for entry in range(start, end):
            lacking[entry] = targets[entry] - _weighted_dot(Y, src[entry] * K, x, K, weights, entry)
        for first in range(0, K, _WIDTH):
            if not _solve_subspace(
                Y, rank, src, lacking, weights, start, end, scale, regularization, gram, x, first, sums, system
            ):
                return error, row
        copy(x[:rank], X[row])
        error += error_and_gradient(Y, K, src, targets, weights, start, end, scale, regularization, gram, x, gradient)
        if constants is not None:
            error += constants[row]
    return error, -1


@njit(cache=True, nogil=True)
def _solve_subspace(  # type: ignore[no-untyped-def]
    Y, rank, src, lacking, weights, start, end, scale, regularization, gram, x, first, sums, system
):
    """Solve the coordinates first .. first + 15 of x; False where their system is singular."""
    K, width = padded_rank(rank), min(_WIDTH, rank - first)
    A, b = system[: _WIDTH * _WIDTH], system[_WIDTH * _WIDTH : 17 * _WIDTH]
    U_inverses, smallest = system[17 * _WIDTH : 49 * _WIDTH], system[49 * _WIDTH : 50 * _WIDTH]
    system[: 17 * _WIDTH] = 0
    for entry in range(start, end, _PASS):
        _add_pass(Y, K, src, lacking, weights, entry, min(_PASS, end - entry), first, sums, system)
    _add_common(K, width, scale, regularization, gram, x, first, A, b)
    if not solve_float32(A, width, b, U_inverses, smallest) and not _solve_again(
        Y, K, src, lacking, weights, start, end, scale, regularization, gram, x, first, b[:width]
    ):
        return False
    for i in range(width):
        x[first + i] += b[i]
    for entry in range(start, end):
        lacking[entry] -= _weighted_dot(Y, src[entry] * K + first, b, _WIDTH, weights, entry)
    return True


@njit(cache=True, nogil=True)
def _solve_again(Y, K, src, lacking, weights, start, end, scale, regularization, gram, x, first, b):  # type: ignore[no-untyped-def]
    """Solve the system of the columns from `first` on in float64, into b; False where it is singular."""
    A, solution = np.zeros((b.size, b.size)), np.zeros(b.size)
    sum_float64(Y, K, first, src, lacking, weights, start, end, scale, regularization, gram, A, solution)
    for i in range(b.size):
        solution[i] -= scale * regularization[first + i] * x[first + i]
        if gram is not None:
            for j in range(K):
                solution[i] -= gram[(first + i) * K + j] * x[j]
    is_solved = solve_float64(A, solution)
    copy(solution, b)
    return is_solved


@njit(cache=True, nogil=True)
def _add_pass(Y, K, src, lacking, weights, start, count, first, sums, system):  # type: ignore[no-untyped-def]
    """Add what `count` ratings give to the system: Σ w y yᵀ and, behind it, Σ lacking y, of 16 columns."""
    sums[:] = 0
    # The sums of b go to its place `first`, as if it stood beside all columns.
    b = sums[17 * K - first :]
    gather_gram_16x1_with_b(Y, first, first, K, src, start, count, sums, 0, lacking, weights, b, 0, src.size - 1)
    for i in range(_WIDTH):
        system[_WIDTH * _WIDTH + i] += sums[17 * K + i]
        for j in range(_WIDTH):
            system[i * _WIDTH + j] += sums[i * K + j]


@njit(cache=True, nogil=True)
def _add_common(K, width, scale, regularization, gram, x, first, A, b):  # type: ignore[no-untyped-def]
    """Add what does not depend on the ratings: G + scale·diag(λ) to A, its product with −x to b."""
    for i in range(width):
        row = first + i
        ridge = np.float32(scale * regularization[row])
        b[i] -= ridge * x[row]
        if gram is not None:
            for j in range(K):
                b[i] -= gram[row * K + j] * x[j]
            for j in range(width):
                A[i * _WIDTH + j] += gram[row * K + first + j]
        A[i * _WIDTH + i] += ridge
    for i in range(width, _WIDTH):
        A[i * _WIDTH + i] = np.float32(1)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _weighted_dot(Y, first, x, n, weights, entry):  # type: ignore[no-untyped-def]
    """W x·y of one rating, over n columns."""
    total = np.float32(0)
    for i in range(n):
        total += Y[np.uint64(first) + np.uint64(i)] * x[np.uint64(i)]
    return total if weights is None else weights[entry] * total
