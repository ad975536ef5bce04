"""The half-iteration of ALS by conjugate gradients: each destination row improved from where it stands."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mfspark.kernels.als import SolvedRows, padded_sources, row_scratch, solve_row
from mfspark.kernels.csr import InBlock
from mfspark.kernels.padding import copy, empty_lines, padded_rank
from mfspark.kernels.residual import add_residual

# A squared residual below this share of the largest it could be is rounding: no direction to go.
_ROUNDING = 1e-12


def solve_explicit_cg(
    in_block: InBlock,
    src_factors: NDArray[np.float32],
    dst_factors: NDArray[np.float32],
    regularization: float,
    *,
    rank: int | None = None,
    steps: int,
) -> SolvedRows:
    """Improve all destination rows of one in-block by conjugate gradients, for explicit ratings.

    For each row u the normal equation of `solve_explicit`, (Σ y_i y_iᵀ + λ n_u I) x_u = Σ r_ui y_i, by `steps` steps
    from the row's old x_u (Hestenes, Stiefel, 1952; for ALS: Takács, Pilászy, Tikk, RecSys 2011). Its matrix is
    never formed: each step is one pass over the ratings, A p = Σ y (y·p) + λ n p. The objective never rises; with as
    many steps as the rank the solution is exact but for rounding. Rows whose exact solution costs no more than the
    steps are solved exactly.

    Vectors are float32, scalars float64. Each step lowers the objective by a known amount, so the squared error at
    the new x needs no pass of its own: its error is of the size of float32 rounding of the squared error at the old x.

    Parameters
    ----------
    in_block, src_factors, regularization, rank : as for `solve_explicit`
    dst_factors : float32[n_rows, rank], of this block's rows before; left alone
    steps : most steps for a row; one that has converged stops earlier

    Returns
    -------
    SolvedRows    a row without ratings is all zeros; with λ = 0 a row with fewer ratings than the rank is singular
        as for `solve_explicit`, though the steps would find one of its many solutions

    Raises
    ------
    ValueError    source factors as for `solve_explicit`; dst_factors of another shape

    Cost: 2·(steps + 1)·n_ratings·rank multiply-adds, O(rank²) scratch. Runs on executors.
    """
    Y, rank = padded_sources(in_block, src_factors, rank)
    if dst_factors.shape != (in_block.n_rows, rank):
        raise ValueError(f"old factors must have the shape {(in_block.n_rows, rank)}, found {dst_factors.shape}")
    X = dst_factors.astype(np.float32, order="C")
    vectors = empty_lines(4 * padded_rank(rank))
    loss, singular_row = _solve_explicit_cg(
        in_block.offsets, in_block.src, in_block.ratings, Y, X, regularization, steps, vectors, *row_scratch(rank)
    )
    return SolvedRows(X, loss, singular_row)


@njit(cache=True, nogil=True)
def _solve_explicit_cg(offsets, src, ratings, Y, X, regularization, steps, vectors, scratch, total):  # type: ignore[no-untyped-def]
    rank = X.shape[1]
    K = padded_rank(rank)
    x = vectors[:K]
    vectors[:] = 0
    loss = 0.0
    for row in range(offsets.size - 1):
        start, end = offsets[row], offsets[row + 1]
        n = end - start
        if n == 0:
            X[row] = 0
        elif _is_cheaper_exactly(n, rank, steps) or (regularization == 0 and n < rank):
            is_solved, row_loss = solve_row(Y, rank, src, ratings, start, end, regularization, scratch, total)
            if not is_solved:
                return loss, row
            loss += row_loss
            copy(scratch[K * K : K * K + rank], X[row])
        else:
            copy(X[row], x)
            loss += _improve_row(Y, K, src, ratings, start, end, regularization * n, steps, vectors)
            copy(x[:rank], X[row])
    return loss, -1


@njit(cache=True, nogil=True)
def _is_cheaper_exactly(n, rank, steps):  # type: ignore[no-untyped-def]
    """Whether the exact solution of a row of n ratings takes less time than the steps.

    In units of one rating in one pass (1 ns at rank 16, 2.7 at 64), as measured for ranks from 4 to 128; a row of n
    ratings has converged after n + 1 steps.
    """
    return (min(steps, n + 1) + 1) * (n + 40) > (2 + rank / 10) * n + 400 + 7 * rank


@njit(cache=True, nogil=True)
def _improve_row(Y, K, src, ratings, start, end, ridge, steps, vectors):  # type: ignore[no-untyped-def]
    """Conjugate gradients from the x in vectors[:K], in place; returns Σ (r − x·y)² at the new x.

    vectors : float32[4·K]    x with zeros in the padding, and scratch without NaN
    """
    x, residual, direction, product = vectors[:K], vectors[K : 2 * K], vectors[2 * K : 3 * K], vectors[3 * K :]
    length = _turn(x, 0.0, direction, ridge, residual)
    objective = add_residual(Y, K, src, ratings, start, end, np.float32(1), x, residual) + ridge * length
    squared, share, steepest = _squared_length(residual), 0.0, 0.0
    for _ in range(steps):
        if not squared > _ROUNDING * steepest * objective:
            break
        length = _turn(residual, share, direction, ridge, product)
        curvature = add_residual(Y, K, src, ratings, start, end, np.float32(0), direction, product) + ridge * length
        # A step lowers the objective by squared² / curvature. By more than there is: no curvature but rounding.
        if squared * squared > 2 * objective * curvature:
            break
        _move(x, residual, squared / curvature, direction, product)
        objective -= squared * squared / curvature
        steepest = max(steepest, curvature / length)
        previous, squared = squared, _squared_length(residual)
        share = squared / previous
    return max(objective - ridge * _squared_length(x), 0.0)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _turn(start, share, direction, ridge, product):  # type: ignore[no-untyped-def]
    """Set direction = start + share·direction and product = −ridge·direction; return |direction|²."""
    share, minus_ridge, length = np.float32(share), np.float32(-ridge), 0.0
    for i in range(start.size):
        p = start[i] + share * direction[i]
        direction[i] = p
        product[i] = minus_ridge * p
        length += np.float64(p) * p
    return length


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
