"""The error that the rows of one in-block minimise, in the form that all solvers of ALS take.

Each row's x minimises  Σ w (x·y)² − 2 Σ t x·y + x·G x + n Σ_f λ_f x_f²,  so that its normal equation is
(Σ w y yᵀ + G + n diag(λ)) x = Σ t y. Every objective is a choice of t, w, G, n and λ.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Equations(NamedTuple):
    """Normal equations of the rows of an in-block."""

    targets: NDArray[np.float32]
    """float32[n_ratings], t."""
    weights: NDArray[np.float32] | None
    """float32[n_ratings], w; None: all 1."""
    constants: NDArray[np.float64] | None
    """float64[n_rows], with weights: the squared error of each row at x = 0. Without: None, it is Σ t²."""
    scales: NDArray[np.float64]
    """float64[n_rows], n: how often λ counts for the row."""
    regularization: NDArray[np.float64]
    """float64[padded_rank(rank)], λ of each column of the factors."""
    gram: NDArray[np.float32] | None
    """float32[padded_rank(rank)²], G, flat, zeros in the padding; None: no G."""

    def penalty(self, factors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Σ n λ_f x_f² over the rows, for each column f.

        factors : float32[n_rows, rank]

        Returns
        -------
        float64[rank]

        Cost: O(n_rows·rank). Runs on executors.
        """
        rank = factors.shape[1]
        penalties: NDArray[np.float64] = self.regularization[:rank] * (
            self.scales @ np.square(factors, dtype=np.float64)
        )
        return penalties


class Ratings(NamedTuple):
    """The ratings start .. end-1 of an in-block, those of one row; for compiled code.

    The arrays are of the whole block, so that source rows can be asked for beyond the row's end.
    """

    src: NDArray[np.int32]
    """int32[n_ratings], the source row of each."""
    targets: NDArray[np.float32]
    """float32[n_ratings], t."""
    weights: NDArray[np.float32] | None
    """float32[n_ratings], w; None: all 1."""
    start: int
    end: int


class Penalty(NamedTuple):
    """What a row's x costs whatever its ratings say: x·G x + n Σ_f λ_f x_f²; for compiled code."""

    scale: float
    """n: how often λ counts for the row."""
    regularization: NDArray[np.float64]
    """float64[K], λ of each column, K = padded_rank(rank)."""
    gram: NDArray[np.float32] | None
    """float32[K·K], G; None: no G."""


@njit(cache=True, nogil=True)
def ratings_of(row, offsets, src, equations):  # type: ignore[no-untyped-def]
    """Ratings of a local row of an in-block that has these offsets and sources."""
    return Ratings(src, equations.targets, equations.weights, offsets[row], offsets[row + 1])


@njit(cache=True, nogil=True)
def penalty_of(row, equations):  # type: ignore[no-untyped-def]
    """Penalty of a local row."""
    return Penalty(equations.scales[row], equations.regularization, equations.gram)


# numba drops the branch that a None rules out only where the None is an argument, not a field: hence functions of
# one field.
@njit(cache=True, nogil=True)
def constant_of(row, constants):  # type: ignore[no-untyped-def]
    """Constant of a row's error; constants None: 0."""
    return 0.0 if constants is None else constants[row]


@njit(cache=True, nogil=True)
def times_weight(value, entry, weights):  # type: ignore[no-untyped-def]
    """A value times the weight of a rating; weights None: the value."""
    return value if weights is None else weights[entry] * value
