"""Half an iteration of ALS for one in-block by subspaces: solves 16 columns of each destination row at a time."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.als import (
    SolvedRows,
    add_penalty_float64,
    error_and_residual,
    has_no_targets,
    is_underdetermined,
    require_padded,
    require_rows,
    sum_float64,
)
from mfspark.kernels.compiled import njit
from mfspark.kernels.csr import InBlock
from mfspark.kernels.equations import Equations, Ratings, parts_of, row_of, times_weight
from mfspark.kernels.padding import copy, empty_lines, padded_rank
from mfspark.kernels.solve import solve_float32, solve_float64
from mfspark.kernels.tiles import gather_gram_16x1_with_b

_WIDTH = 16
# Number of ratings that are summed in float32 before the sum is added to the total.
_PASS = 4096


def solve_by_subspaces(
    in_block: InBlock,
    src_factors: NDArray[np.float32],
    dst_factors: NDArray[np.float32],
    equations: Equations,
) -> SolvedRows:
    """Improve all destination rows of one in-block: solve for 16 coordinates at a time, with the others fixed.

    This is iALS++ (Rendle, Krichene, Zhang, Koren, 2021, algorithm 2). It keeps the error t − w x·y of each rating up
    to date, so that a step solves a 16 × 16 system instead of one of the whole rank. Each 16 coordinates are exact, and
    the objective never rises; at a rank of at most 16 the whole solution is exact.

    Parameters
    ----------
    in_block, src_factors, equations : as for `solve_exactly`
    dst_factors : float32[n_rows, rank], the old factors of this block's rows; not changed

    Returns
    -------
    SolvedRows    a row without ratings is all zeros; a row is singular if one of its 16 × 16 systems is, or if λ and G
        are 0 and it has fewer ratings than the rank

    Cost: n_ratings·rank·(16 + 4) multiply-adds. Runs on executors.
    """
    rank = dst_factors.shape[1]
    require_padded(src_factors, rank, in_block)
    require_rows(dst_factors, in_block)
    X = dst_factors.astype(np.float32, order="C")
    squared_error, singular_row = _solve_by_subspaces(
        in_block.offsets, in_block.src, src_factors, X, equations, _scratch(rank)
    )
    return SolvedRows(X, squared_error, singular_row)


class _Scratch(NamedTuple):
    """Scratch memory of `_solve_by_subspaces`, reused for each row; K = padded_rank(rank)."""

    x: NDArray[np.float32]
    """float32[K], zeros in the padding."""
    residual: NDArray[np.float32]
    """float32[K], b − A x of the whole normal equation."""
    equation: NDArray[np.float32]
    """float32[16·16 + 16], the system A d = b of 16 columns; then the factor U of A, and d."""
    b: NDArray[np.float32]
    """float32[16], the part of `equation` behind A."""
    U_inverses: NDArray[np.float32]
    """float32[32·16], see `solve_float32`."""
    smallest: NDArray[np.float32]
    """float32[16], see `solve_float32`."""
    yy_sums: NDArray[np.float32]
    """float32[16·K], the sum of one pass for A: 16 rows of length K, of which the first 16 columns are used."""
    ey_sums: NDArray[np.float32]
    """float32[K], the sum of one pass for b, at the positions of the 16 columns."""


def _scratch(rank: int) -> _Scratch:
    K = padded_rank(rank)
    x, equation = empty_lines(K), empty_lines(_WIDTH * _WIDTH + _WIDTH)
    x[:] = 0
    return _Scratch(
        x=x,
        residual=empty_lines(K),
        equation=equation,
        b=equation[_WIDTH * _WIDTH :],
        U_inverses=empty_lines(32 * _WIDTH),
        smallest=empty_lines(_WIDTH),
        yy_sums=empty_lines(_WIDTH * K),
        ey_sums=empty_lines(K),
    )


@njit(cache=True, nogil=True)
def _solve_by_subspaces(offsets, src, Y, X, equations, scratch):  # type: ignore[no-untyped-def]
    rank, x = X.shape[1], scratch.x
    ratings, penalty = parts_of(src, equations)
    errors = np.empty_like(ratings.targets)
    unexplained = Ratings(src, errors, ratings.weights)
    squared_error = 0.0
    for j in range(offsets.size - 1):
        row = row_of(j, offsets, equations)
        if row.start == row.end:
            X[j] = 0
            continue
        if has_no_targets(ratings.targets, row):
            X[j] = 0
            squared_error += row.constant
            continue
        if is_underdetermined(row, rank, penalty):
            return squared_error, j
        copy(X[j], x)
        for entry in range(row.start, row.end):
            prediction = times_weight(_dot(Y, src[entry], 0, x, x.size), entry, ratings.weights)
            errors[entry] = ratings.targets[entry] - prediction
        for first in range(0, x.size, _WIDTH):
            if not _solve_subspace(Y, rank, unexplained, row, penalty, first, scratch):
                return squared_error, j
        copy(x[:rank], X[j])
        squared_error += error_and_residual(Y, ratings, row, penalty, x, scratch.residual)
        squared_error += row.constant
    return squared_error, -1


@njit(cache=True, nogil=True)
def _solve_subspace(Y, rank, unexplained, row, penalty, first, scratch):  # type: ignore[no-untyped-def]
    """Solve for the coordinates first .. first + 15 of x; return False if their system is singular.

    unexplained : Ratings    its targets are the errors t − w x·y, which this function updates
    """
    x, equation, b = scratch.x, scratch.equation, scratch.b
    start, end = row.start, row.end
    width = min(_WIDTH, rank - first)
    equation[:] = 0
    for entry in range(start, end, _PASS):
        _add_pass(Y, unexplained, entry, min(_PASS, end - entry), first, scratch)
    _add_penalty(row, penalty, width, first, x, equation, b)
    if not solve_float32(equation, width, b, scratch.U_inverses, scratch.smallest) and not _solve_again(
        Y, unexplained, row, penalty, first, x, b[:width]
    ):
        return False
    for i in range(width):
        x[first + i] += b[i]
    src, errors, weights = unexplained
    for entry in range(start, end):
        errors[entry] -= times_weight(_dot(Y, src[entry], first, b, _WIDTH), entry, weights)
    return True


@njit(cache=True, nogil=True)
def _solve_again(Y, unexplained, row, penalty, first, x, b):  # type: ignore[no-untyped-def]
    """Solve the system of the columns from `first` on in float64, into b; return False if it is singular."""
    A, solution = np.zeros((b.size, b.size)), np.zeros(b.size)
    sum_float64(Y, unexplained, row, first, A, solution)
    add_penalty_float64(row, penalty, x.size, first, A)
    for i in range(b.size):
        solution[i] -= row.scale * penalty.regularization[first + i] * x[first + i]
    _subtract_gram_product(penalty.gram, first, x, solution)
    is_solved = solve_float64(A, solution)
    copy(solution, b)
    return is_solved


@njit(cache=True, nogil=True)
def _add_pass(Y, unexplained, start, count, first, scratch):  # type: ignore[no-untyped-def]
    """Add Σ w y yᵀ and Σ e y of `count` ratings to the system of the columns from `first` on."""
    src, errors, weights = unexplained
    K, equation, yy, ey = scratch.x.size, scratch.equation, scratch.yy_sums, scratch.ey_sums
    yy[:] = 0
    ey[:] = 0
    gather_gram_16x1_with_b(Y, first, first, K, src, start, count, yy, 0, errors, weights, ey, 0, src.size - 1)
    for i in range(_WIDTH):
        equation[_WIDTH * _WIDTH + i] += ey[first + i]
        for j in range(_WIDTH):
            equation[i * _WIDTH + j] += yy[i * K + j]


@njit(cache=True, nogil=True)
def _add_penalty(row, penalty, width, first, x, A, b):  # type: ignore[no-untyped-def]
    """Add the terms that do not depend on the ratings: G + n·diag(λ) to A, and its product with −x to b."""
    for i in range(width):
        b[i] -= np.float32(row.scale * penalty.regularization[first + i]) * x[first + i]
    _subtract_gram_product(penalty.gram, first, x, b[:width])
    _add_gram(penalty.gram, x.size, first, width, A)
    for i in range(width):
        A[i * _WIDTH + i] += np.float32(row.scale * penalty.regularization[first + i])
    for i in range(width, _WIDTH):
        A[i * _WIDTH + i] = np.float32(1)


@njit(cache=True, nogil=True)
def _subtract_gram_product(gram, first, x, b):  # type: ignore[no-untyped-def]
    """Subtract G x from b, in the coordinates from `first` on."""
    if gram is not None:
        for i in range(b.size):
            for j in range(x.size):
                b[i] -= gram[(first + i) * x.size + j] * x[j]


@njit(cache=True, nogil=True)
def _add_gram(gram, K, first, width, A):  # type: ignore[no-untyped-def]
    """Add the square block of G that starts at row and column `first` to A."""
    if gram is not None:
        for i in range(width):
            for j in range(width):
                A[i * _WIDTH + j] += gram[(first + i) * K + first + j]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(Y, row, first, x, n):  # type: ignore[no-untyped-def]
    """x·y over n columns of a source row from `first` on."""
    total = np.float32(0)
    for i in range(n):
        total += Y[np.uint64(row), np.uint64(first) + np.uint64(i)] * x[np.uint64(i)]
    return total
