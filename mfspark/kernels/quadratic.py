"""Quadratic forms, by which a row with too many ratings for one block is solved.

Each block computes the form of its ratings; the sum of the forms gives the factors of the row.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.nonnegative import pivot
from mfspark.kernels.solve import solve_float64

# Number of ratings whose source rows are gathered at a time: 2 MB at rank 64.
_RATINGS_AT_A_TIME = 4096


class Quadratic(NamedTuple):
    """x·A x − 2 b·x + c."""

    A: NDArray[np.float64]
    """float64[rank, rank], symmetric."""
    b: NDArray[np.float64]
    """float64[rank]."""
    c: float

    def plus(self, other: "Quadratic") -> "Quadratic":
        """The sum of both."""
        return Quadratic(self.A + other.A, self.b + other.b, self.c + other.c)

    def at(self, x: NDArray[np.float32]) -> float:
        """Value at x, in float64."""
        doubles = x.astype(np.float64)
        return float(doubles @ self.A @ doubles - 2 * self.b @ doubles + self.c)

    def minimum(self, is_nonnegative: bool) -> NDArray[np.float32] | None:
        """float32[rank], the x of the minimum, or of the minimum over x ≥ 0; None if it is not unique.

        Cost: O(rank³), float64.
        """
        A, x = self.A.copy(), self.b.copy()
        is_solved = pivot(A, self.b, self.b > 0, x) if is_nonnegative else solve_float64(A, x)
        return x.astype(np.float32) if is_solved else None


def sum_of_squares(
    src: NDArray[np.int32],
    src_factors: NDArray[np.float32],
    rank: int,
    targets: NDArray[np.float32],
    weights: NDArray[np.float32] | None,
    constant: float,
) -> Quadratic:
    """Σ w (x·y)² − 2 Σ t x·y + constant over some ratings.

    Parameters
    ----------
    src : int32[n_ratings], the source row of each rating
    src_factors : float32[n_src, ≥ rank]
    targets, weights : float32[n_ratings], t and w; weights None: all 1

    Cost: n_ratings·rank² multiply-adds in float64, by BLAS. Runs on executors.
    """
    A, b = np.zeros((rank, rank)), np.zeros(rank)
    for start in range(0, src.size, _RATINGS_AT_A_TIME):
        entries = slice(start, start + _RATINGS_AT_A_TIME)
        Y = src_factors[src[entries], :rank].astype(np.float64)
        A += (Y if weights is None else Y * weights[entries, np.newaxis]).T @ Y
        b += targets[entries] @ Y
    return Quadratic(A, b, constant)
