"""Half an iteration of ALS for one in-block with x ≥ 0: nonnegative least squares, row by row."""

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.als import (
    SolvedRows,
    error_and_residual,
    has_no_targets,
    require_padded,
    require_rows,
    row_scratch,
)
from mfspark.kernels.compiled import njit
from mfspark.kernels.csr import InBlock
from mfspark.kernels.equations import Equations, parts_of, row_of
from mfspark.kernels.normal_equation import accumulate, add_penalty
from mfspark.kernels.padding import copy, padded_rank

# Below this share of the largest |b|, a gradient or coordinate counts as zero, and a float64 pivot as rounding error.
_ZERO = 1e-12
# After so many full exchanges that do not lower the number of infeasible coordinates, they are exchanged one by one.
_FULL_EXCHANGES = 3


def solve_nonnegative(
    in_block: InBlock,
    src_factors: NDArray[np.float32],
    dst_factors: NDArray[np.float32],
    equations: Equations,
) -> SolvedRows:
    """Minimise the error of the equations over x ≥ 0, exactly, for all destination rows of one in-block.

    Block principal pivoting (Kim, Park, SIAM J. Sci. Comput. 33, 2011, algorithm 2): it changes which coordinates are
    held at zero, many at a time, until x and the gradient have the right signs. Each change takes one Cholesky
    factorization in float64.

    Parameters
    ----------
    in_block, src_factors, equations : as for `solve_exactly`
    dst_factors : float32[n_rows, rank], the old factors of this block's rows. Coordinates that are positive there are
        tried first; up to rounding, the result does not depend on them.

    Returns
    -------
    SolvedRows    a row without ratings is all zeros; a row is singular if a system of its positive coordinates is

    Cost: as `solve_exactly`, plus a few float64 factorizations per row. Runs on executors.
    """
    rank = dst_factors.shape[1]
    require_padded(src_factors, rank, in_block)
    require_rows(dst_factors, in_block)
    return SolvedRows(
        *_solve_nonnegative(in_block.offsets, in_block.src, src_factors, dst_factors, equations, row_scratch(rank))
    )


@njit(cache=True, nogil=True)
def _solve_nonnegative(offsets, src, Y, old, equations, scratch):  # type: ignore[no-untyped-def]
    rank = old.shape[1]
    K = padded_rank(rank)
    X = np.zeros(old.shape, np.float32)
    equation, x = scratch.equation, scratch.x
    A, b, solution = np.empty((rank, rank)), np.empty(rank), np.empty(rank)
    ratings, penalty = parts_of(src, equations)
    squared_error = 0.0
    for j in range(offsets.size - 1):
        row = row_of(j, offsets, equations)
        if row.start == row.end:
            continue
        if has_no_targets(ratings.targets, row):
            squared_error += row.constant
            continue
        accumulate(Y, rank, ratings, row, equation, scratch.long_sums)
        add_penalty(equation, rank, row, penalty)
        for f in range(rank):
            b[f] = equation[K * K + f]
            for g in range(f, rank):
                A[f, g] = A[g, f] = equation[f * K + g]
        if not pivot(A, b, old[j] > 0, solution):
            return X, squared_error, j
        # After the first `rank` entries, x has the zeros of the right-hand side's padding.
        copy(solution, x)
        copy(x[:rank], X[j])
        squared_error += error_and_residual(Y, ratings, row, penalty, x, scratch.residual)
        squared_error += row.constant
    return X, squared_error, -1


@njit(cache=True, nogil=True)
def pivot(A, b, is_free, x):  # type: ignore[no-untyped-def]
    """Minimise x·A x / 2 − b·x over x ≥ 0; return False if the free part of A is singular.

    is_free : bool[rank]    coordinates that may be positive: on entry the first guess, on exit those of the solution
    """
    rank = b.size
    zero = _ZERO * np.abs(b).max()
    fewest, full_exchanges = rank + 1, _FULL_EXCHANGES
    U, is_infeasible = np.empty((rank, rank)), np.empty(rank, np.bool_)
    while True:
        free = np.flatnonzero(is_free)
        x[:] = 0
        if not _solve_free(A, b, free, U, x):
            return False
        for i in range(rank):
            is_infeasible[i] = _is_infeasible(A, b, x, i, is_free[i], zero)
        infeasible = np.flatnonzero(is_infeasible)
        if infeasible.size == 0:
            for i in range(rank):
                x[i] = max(x[i], 0.0)
            return True
        if infeasible.size < fewest:
            fewest, full_exchanges = infeasible.size, _FULL_EXCHANGES
        else:
            full_exchanges -= 1
        # If only the last infeasible coordinate is exchanged, the method cannot cycle (Murty's rule).
        for i in infeasible if full_exchanges >= 0 else infeasible[-1:]:
            is_free[i] = not is_free[i]


@njit(cache=True, nogil=True)
def _is_infeasible(A, b, x, i, is_free, zero):  # type: ignore[no-untyped-def]
    """Whether coordinate i is free and negative, or is held at zero although the objective would fall along it."""
    if is_free:
        return x[i] * A[i, i] < -zero
    gradient = -b[i]
    for j in range(b.size):
        gradient += A[i, j] * x[j]
    return gradient < -zero


@njit(cache=True, nogil=True)
def _solve_free(A, b, free, U, x):  # type: ignore[no-untyped-def]
    """Solve A_FF x_F = b_F by A_FF = Uᵀ U for the free coordinates F; return False if A_FF is singular."""
    n = free.size
    for i in range(n):
        for j in range(i, n):
            U[i, j] = A[free[i], free[j]]
    if not _factor(U[:n, :n]):
        return False
    for i in range(n):
        value = b[free[i]]
        for p in range(i):
            value -= U[p, i] * x[free[p]]
        x[free[i]] = value / U[i, i]
    for i in range(n - 1, -1, -1):
        value = x[free[i]]
        for j in range(i + 1, n):
            value -= U[i, j] * x[free[j]]
        x[free[i]] = value / U[i, i]
    return True


@njit(cache=True, nogil=True)
def _factor(U):  # type: ignore[no-untyped-def]
    """Turn the upper triangle of a matrix into its Cholesky factor U; by rows, so that the inner loop vectorises."""
    n = len(U)
    diagonal = np.diag(U).copy()
    for i in range(n):
        if not U[i, i] > _ZERO * diagonal[i]:
            return False
        root = np.sqrt(U[i, i])
        for j in range(i, n):
            U[i, j] /= root
        for p in range(i + 1, n):
            for j in range(p, n):
                U[p, j] -= U[i, p] * U[i, j]
    return True
