"""The error that the rows of one in-block minimise, in the form that all solvers of ALS take.

Each row's x minimises  Σ w (x·y)² − 2 Σ t x·y + x·G x + n Σ_f λ_f x_f²,  so that its normal equation is
(Σ w y yᵀ + G + n diag(λ)) x = Σ t y. Every objective is a choice of t, w, G, n and λ.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.compiled import njit


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
    """The ratings of an in-block; for compiled code."""

    src: NDArray[np.int32]
    """int32[n_ratings], the source row of each."""
    targets: NDArray[np.float32]
    """float32[n_ratings], t."""
    weights: NDArray[np.float32] | None
    """float32[n_ratings], w; None: all 1."""


class Penalty(NamedTuple):
    """What x costs whatever the ratings of its row say: x·G x + n Σ_f λ_f x_f²; for compiled code."""

    regularization: NDArray[np.float64]
    """float64[K], λ of each column, K = padded_rank(rank)."""
    gram: NDArray[np.float32] | None
    """float32[K·K], G; None: no G."""


class Row(NamedTuple):
    """One row of an in-block. Numbers only: an array would cost two atomic operations for each row."""

    start: int
    end: int
    """Its ratings are those from start to end - 1 of the block."""
    scale: float
    """n: how often λ counts."""
    constant: float
    """Of its squared error."""


@njit(cache=True, nogil=True)
def parts_of(src, equations):  # type: ignore[no-untyped-def]
    """Ratings and Penalty of an in-block with these sources."""
    ratings = Ratings(src, equations.targets, equations.weights)
    return ratings, Penalty(equations.regularization, equations.gram)


@njit(cache=True, nogil=True)
def row_of(j, offsets, equations):  # type: ignore[no-untyped-def]
    """Row j of an in-block with these offsets."""
    return Row(offsets[j], offsets[j + 1], equations.scales[j], _constant_of(j, equations.constants))


# numba drops the branch that a None rules out only where the None is an argument, not a field: hence functions of
# one field.
@njit(cache=True, nogil=True)
def _constant_of(j, constants):  # type: ignore[no-untyped-def]
    return 0.0 if constants is None else constants[j]


@njit(cache=True, nogil=True)
def times_weight(value, entry, weights):  # type: ignore[no-untyped-def]
    """A value times the weight of a rating; weights None: the value."""
    return value if weights is None else weights[entry] * value
