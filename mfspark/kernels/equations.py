"""The error that the rows of one in-block minimise, in the form that all solvers of ALS take.

Each row's x minimises  Σ w (x·y)² − 2 Σ t x·y + x·G x + n Σ_f λ_f x_f²,  so that its normal equation is
(Σ w y yᵀ + G + n diag(λ)) x = Σ t y. Every objective is a choice of t, w, G, n and λ.
"""

from typing import NamedTuple

import numpy as np
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
