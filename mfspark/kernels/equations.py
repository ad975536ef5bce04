"""The normal equations of the rows of one in-block, in the form that all solvers of ALS take.

The x of each row minimises  Σ w (x·y)² − 2 Σ t x·y + x·G x + n Σ_f λ_f x_f²,  so that its normal equation is
(Σ w y yᵀ + G + n diag(λ)) x = Σ t y. The objectives differ only in t, w, G, n and λ.
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
    """float64[n_rows], the squared error of each row at x = 0, if there are weights; None without, where it is Σ t²."""
    scales: NDArray[np.float64]
    """float64[n_rows], n: the factor of λ for each row."""
    regularization: NDArray[np.float64]
    """float64[padded_rank(rank)], λ of each column of the factors."""
    gram: NDArray[np.float32] | None
    """float32[padded_rank(rank)²], G as a flat array with zeros in the padding; None: no G."""

    def penalty(self, factors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The penalty Σ n λ_f x_f² over the rows, for each column f.

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
    """The ratings of an in-block, for compiled code."""

    src: NDArray[np.int32]
    """int32[n_ratings], the source row of each rating."""
    targets: NDArray[np.float32]
    """float32[n_ratings], t."""
    weights: NDArray[np.float32] | None
    """float32[n_ratings], w; None: all 1."""


class Penalty(NamedTuple):
    """The terms that do not depend on the ratings of a row, x·G x + n Σ_f λ_f x_f², for compiled code."""

    regularization: NDArray[np.float64]
    """float64[K], λ of each column, K = padded_rank(rank)."""
    gram: NDArray[np.float32] | None
    """float32[K·K], G; None: no G."""


class Row(NamedTuple):
    """One row of an in-block. It has only numbers, because an array would cost two atomic operations per row."""

    start: int
    end: int
    """The row has the ratings start to end - 1 of the block."""
    scale: float
    """n, the factor of λ."""
    constant: float
    """The squared error at x = 0, see `Equations`."""


@njit(cache=True, nogil=True)
def parts_of(src, equations):  # type: ignore[no-untyped-def]
    """The Ratings and the Penalty of an in-block.

    src : int32[n_ratings], its source rows
    """
    ratings = Ratings(src, equations.targets, equations.weights)
    return ratings, Penalty(equations.regularization, equations.gram)


@njit(cache=True, nogil=True)
def row_of(j, offsets, equations):  # type: ignore[no-untyped-def]
    """Row j of an in-block.

    offsets : int64[n_rows + 1], of the in-block
    """
    return Row(offsets[j], offsets[j + 1], equations.scales[j], _constant_of(j, equations.constants))


# numba removes a branch for None only if the None is an argument of the function, not a field of a tuple. So these
# functions take the field itself.
@njit(cache=True, nogil=True)
def _constant_of(j, constants):  # type: ignore[no-untyped-def]
    return 0.0 if constants is None else constants[j]


@njit(cache=True, nogil=True)
def times_weight(value, entry, weights):  # type: ignore[no-untyped-def]
    """The value times the weight of a rating; the value itself if weights is None."""
    return value if weights is None else weights[entry] * value
