"""The half-iteration of ALS over one in-block: every destination row solved, the source factors held fixed."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mfspark.kernels.csr import InBlock
from mfspark.kernels.normal_equation import accumulate_explicit, add_ridge
from mfspark.kernels.solve import cholesky_solve


class SolvedRows(NamedTuple):
    """New factors of one block's destination rows."""

    factors: NDArray[np.float32]
    """float32[n_rows, rank]."""
    singular_row: int
    """Local row of the first normal equation without a unique solution; -1 where there is none."""


def solve_explicit(in_block: InBlock, src_factors: NDArray[np.float32], regularization: float) -> SolvedRows:
    """Solve all destination rows of one in-block exactly, for explicit ratings.

    For each row u with ratings Ω_u:  (Σ_{i∈Ω_u} y_i y_iᵀ + λ n_u I) x_u = Σ_{i∈Ω_u} r_ui y_i
    λ counts once per rating, n_u = |Ω_u| (ALS-WR: Zhou et al., AAIM 2008, section 3.1; as Spark's ALS).

    Parameters
    ----------
    in_block : ratings by destination row
    src_factors : float32[n_src, rank], C-contiguous
    regularization : λ ≥ 0; with 0 a row with fewer ratings than the rank has no unique solution

    Returns
    -------
    SolvedRows    a row without ratings is all zeros

    Raises
    ------
    ValueError    src_factors is not a C-contiguous float32 matrix, or too short for the block's sources

    Cost: O(n_ratings·rank² + n_rows·rank³) time, O(rank²) scratch. Runs on executors.
    """
    _require_factor_matrix(src_factors, in_block)
    factors, singular_row = _solve_explicit(
        in_block.offsets, in_block.src, in_block.ratings, src_factors, regularization
    )
    return SolvedRows(factors, singular_row)


@njit(cache=True, nogil=True)
def _solve_explicit(offsets, src, ratings, Y, regularization):  # type: ignore[no-untyped-def]
    n_rows, rank = offsets.size - 1, Y.shape[1]
    X = np.zeros((n_rows, rank), np.float32)
    A = np.empty((rank, rank))
    b = np.empty(rank)
    for row in range(n_rows):
        start, end = offsets[row], offsets[row + 1]
        if start == end:
            continue
        accumulate_explicit(Y, src[start:end], ratings[start:end], A, b)
        add_ridge(A, regularization * (end - start))
        if not cholesky_solve(A, b):
            return X, row
        X[row] = b
    return X, -1


def _require_factor_matrix(factors: NDArray[np.float32], in_block: InBlock) -> None:
    # numba would read past the end of a matrix that is too short.
    if factors.ndim != 2 or factors.dtype != np.float32 or not factors.flags.c_contiguous:
        raise ValueError(f"factors must be a C-contiguous float32 matrix, found {factors.dtype}{list(factors.shape)}")
    if in_block.src.size and int(in_block.src.max()) >= len(factors):
        raise ValueError(
            f"the block refers to source row {int(in_block.src.max())}, but there are {len(factors)} factors"
        )
