"""Half an iteration of ALS by conjugate gradients: improves each destination row, starting from its old factors."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.als import (
    SolvedRows,
    error_and_residual,
    is_underdetermined,
    require_padded,
    require_rows,
    row_scratch,
    solve_row,
    subtract_gram_product,
)
from mfspark.kernels.compiled import njit
from mfspark.kernels.csr import InBlock
from mfspark.kernels.equations import Equations, parts_of, row_of
from mfspark.kernels.padding import copy, empty_lines, padded_rank
from mfspark.kernels.residual import add_residual

# A squared residual below this share of its largest possible value is only rounding error: the steps stop.
_ROUNDING = 1e-12


def solve_by_cg(
    in_block: InBlock,
    src_factors: NDArray[np.float32],
    dst_factors: NDArray[np.float32],
    equations: Equations,
    *,
    steps: int,
) -> SolvedRows:
    """Improve all destination rows of one in-block by conjugate gradients.

    Does up to `steps` steps on the normal equation of each row, from the row's old x (Hestenes, Stiefel, 1952; for
    ALS: Takács, Pilászy, Tikk, RecSys 2011). It does not compute the matrix A: each step is one pass over the ratings,
    A p = Σ w y (y·p) + G p + λ p. The objective never rises; with as many steps as the rank the solution is exact up
    to rounding. A row is solved exactly if that costs no more than the steps.

    Vectors are float32, scalars float64. Each step lowers the objective by a known amount, so the error at the new x
    needs no pass of its own; it is as exact as the error at the old x, which is rounded to float32.

    Parameters
    ----------
    in_block, src_factors, equations : as for `solve_exactly`
    dst_factors : float32[n_rows, rank], the old factors of this block's rows; not changed
    steps : maximum number of steps for a row; a row that has converged takes fewer

    Returns
    -------
    SolvedRows    a row without ratings is all zeros. If λ and G are 0, a row with fewer ratings than the rank counts as
        singular, as for `solve_exactly`, although the steps would find one of its solutions

    Raises
    ------
    ValueError    as `solve_exactly`; or dst_factors does not have a row for each row of the block

    Cost: 2·(steps + 1)·n_ratings·rank multiply-adds, O(rank²) scratch memory. Runs on executors.
    """
    rank = dst_factors.shape[1]
    require_padded(src_factors, rank, in_block)
    require_rows(dst_factors, in_block)
    X = dst_factors.astype(np.float32, order="C")
    squared_error, singular_row = _solve_by_cg(
        in_block.offsets, in_block.src, src_factors, X, equations, steps, _vectors(rank), row_scratch(rank)
    )
    return SolvedRows(X, squared_error, singular_row)


class _Vectors(NamedTuple):
    """Scratch memory of `_improve_row`, reused for each row; K = padded_rank(rank)."""

    x: NDArray[np.float32]
    """float32[K], zeros in the padding."""
    residual: NDArray[np.float32]
    """float32[K], b − A x."""
    direction: NDArray[np.float32]
    """float32[K]; the initial values must not be NaN."""
    product: NDArray[np.float32]
    """float32[K], −A·direction."""


def _vectors(rank: int) -> _Vectors:
    lines = empty_lines(4 * padded_rank(rank))
    lines[:] = 0
    return _Vectors(*lines.reshape(4, -1))


@njit(cache=True, nogil=True)
def _solve_by_cg(offsets, src, Y, X, equations, steps, vectors, scratch):  # type: ignore[no-untyped-def]
    rank, x = X.shape[1], vectors.x
    ratings, penalty = parts_of(src, equations)
    squared_error = 0.0
    for j in range(offsets.size - 1):
        row = row_of(j, offsets, equations)
        n = row.end - row.start
        if n == 0:
            X[j] = 0
        elif _is_cheaper_exactly(n, rank, steps) or is_underdetermined(row, rank, penalty):
            is_solved, row_error = solve_row(Y, rank, ratings, row, penalty, scratch)
            if not is_solved:
                return squared_error, j
            squared_error += row_error + row.constant
            copy(scratch.x[:rank], X[j])
        else:
            copy(X[j], x)
            squared_error += _improve_row(Y, ratings, row, penalty, steps, vectors)
            copy(x[:rank], X[j])
    return squared_error, -1


@njit(cache=True, nogil=True)
def _is_cheaper_exactly(n, rank, steps):  # type: ignore[no-untyped-def]
    """Whether the exact solution of a row of n ratings takes less time than the steps.

    The unit is the time for one rating in one pass (1 ns at rank 16, 2.7 ns at 64); the costs were measured for ranks
    from 4 to 128. A row of n ratings has converged after n + 1 steps.
    """
    return (min(steps, n + 1) + 1) * (n + 40) > (2 + rank / 10) * n + 400 + 7 * rank


@njit(cache=True, nogil=True)
def _improve_row(Y, ratings, row, penalty, steps, vectors):  # type: ignore[no-untyped-def]
    """Improve vectors.x in place by conjugate gradients; return the squared error at the new x."""
    x, residual, direction, product = vectors
    scale, regularization = row.scale, penalty.regularization
    objective = row.constant + scale * _ridge(x, regularization)
    objective += error_and_residual(Y, ratings, row, penalty, x, residual)
    squared, share, steepest = _squared_length(residual), 0.0, 0.0
    for _ in range(steps):
        # max, because rounding may make the objective negative.
        if not squared > _ROUNDING * steepest * max(objective, 0.0):
            break
        _turn(residual, share, direction)
        for i in range(x.size):
            product[i] = np.float32(-scale * regularization[i]) * direction[i]
        curvature = scale * _ridge(direction, regularization)
        curvature += subtract_gram_product(penalty.gram, direction, product)
        curvature += add_residual(Y, ratings, row, np.float32(0), direction, product)
        # A step lowers the objective by squared² / curvature. If that is more than the objective, the curvature is
        # only rounding error.
        if squared * squared > 2 * objective * curvature:
            break
        _move(x, residual, squared / curvature, direction, product)
        objective -= squared * squared / curvature
        steepest = max(steepest, curvature / _squared_length(direction))
        previous, squared = squared, _squared_length(residual)
        share = squared / previous
    return max(objective - scale * _ridge(x, regularization), 0.0)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _turn(start, share, direction):  # type: ignore[no-untyped-def]
    """Set direction = start + share·direction."""
    share = np.float32(share)
    for i in range(start.size):
        direction[i] = start[i] + share * direction[i]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _ridge(x, regularization):  # type: ignore[no-untyped-def]
    """Σ λ_f x_f²."""
    total = 0.0
    for i in range(x.size):
        total += regularization[i] * (np.float64(x[i]) * x[i])
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _move(x, residual, step, direction, product):  # type: ignore[no-untyped-def]
    """Add step·direction to x and step·product to residual; the product is −A·direction."""
    step = np.float32(step)
    for i in range(x.size):
        x[i] += step * direction[i]
        residual[i] += step * product[i]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _squared_length(x):  # type: ignore[no-untyped-def]
    length = 0.0
    for i in range(x.size):
        length += np.float64(x[i]) * x[i]
    return length
