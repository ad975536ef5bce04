"""Objectives: targets, weights and penalties of the rows of a block."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.blocks.records import Side
from mfspark.kernels.csr import InBlock
from mfspark.kernels.equations import Equations
from mfspark.kernels.padding import padded_rank
from mfspark.training.exchange import Source


class Observations(NamedTuple):
    """The targets of the predictions for the ratings of a block."""

    targets: NDArray[np.float32]
    """float32[n_ratings]."""
    confidence: NDArray[np.float32] | None
    """float32[n_ratings], the weight of each squared error; None: all 1."""


@dataclass(frozen=True)
class Regularization:
    """The penalty λ Σ n |x|² + λ Σ n |y|² of large factors."""

    user: float
    """λ of the users."""
    item: float
    scaling: Literal["count", "none"] | float = "count"
    """n of a row: "count": the number of its (positive) ratings, or the sum of their weights (ALS-WR: Zhou et al., AAIM
    2008, section 3.1; like Spark's ALS); "none": 1; a power ν: (n + α₀ n_src)^ν with the unobserved weight α₀ (Rendle
    et al., RecSys 2022, section 3.3)."""
    bias: float = 0.0
    """λ of the biases of both sides."""

    def of(self, side: Side) -> float:
        """λ of the factors of a side."""
        return self.user if side == "user" else self.item


@dataclass(frozen=True)
class Explicit:
    """Σ w (r − x·y)², or, with biases, Σ w (r − mean − b_u − b_i − x·y)²."""

    has_biases: bool = False
    mean: float = 0.0
    """Mean training rating, if there are biases."""

    unobserved_weight = 0.0
    unobserved_shift = 0.0
    is_rmse_known = True

    def observe(self, block: InBlock) -> Observations:
        """The ratings and their weights."""
        return Observations(block.ratings, block.weights)

    def n_counted(self, block: InBlock) -> NDArray[np.float64]:
        """float64[n_rows], number of ratings of each row, by weight."""
        return block.row_sums(block.weights)


@dataclass(frozen=True)
class Implicit:
    """Σ c (p − x·y)² over all pairs: preference p = 1 for positive ratings, 0 for others and for unobserved pairs.

    The confidence of a rating is c = confidence_offset + α|r|. If `unobserved_weight` is None, unobserved pairs have
    c = 1 (Hu, Koren, Volinsky, ICDM 2008). Offset 1 gives Spark's ALS; with offset 0 and α = 1 the values are
    confidences, as in the library implicit. A number α₀ adds Σ α₀ (x·y)² over all pairs, including observed ones (iALS:
    Rendle et al., RecSys 2022, section 3.1; there c = 1, so offset 1 and α = 0).
    """

    alpha: float
    confidence_offset: float = 1.0
    all_pairs_weight: float | None = None

    has_biases = False
    mean = 0.0
    is_rmse_known = False

    @property
    def unobserved_weight(self) -> float:
        """Weight of (x·y)² for pairs without a rating."""
        return 1.0 if self.all_pairs_weight is None else self.all_pairs_weight

    @property
    def unobserved_shift(self) -> float:
        """The part of the unobserved weight that does not apply to pairs with a rating."""
        return 1.0 if self.all_pairs_weight is None else 0.0

    def observe(self, block: InBlock) -> Observations:
        """Preference and confidence of each rating."""
        confidence = np.float32(self.confidence_offset) + np.float32(self.alpha) * np.abs(block.ratings)
        if block.weights is not None:
            confidence *= block.weights
        return Observations((block.ratings > 0).astype(np.float32), confidence)

    def n_counted(self, block: InBlock) -> NDArray[np.float64]:
        """float64[n_rows], number of positive ratings of each row, by weight."""
        is_positive = (block.ratings > 0).astype(np.float32)
        return block.row_sums(is_positive if block.weights is None else is_positive * block.weights)


Objective = Explicit | Implicit


def centered(objective: Objective, block: InBlock, source: Source) -> InBlock:
    """Subtract the mean and the sources' biases from the ratings of a block; unchanged without biases."""
    if source.biases is None:
        return block
    return block._replace(ratings=block.ratings - np.float32(objective.mean) - source.biases[block.src])


def equations(
    objective: Objective, regularization: Regularization, side: Side, rank: int, block: InBlock, source: Source
) -> Equations:
    """The normal equations of the rows of a block of this side.

    Parameters
    ----------
    rank : columns of the factors, including the bias column
    block : `centered`
    """
    targets, confidence = objective.observe(block)
    weights, constants = None, None
    if confidence is not None:
        constants = block.row_sums(confidence * targets * targets)
        targets = confidence * targets
        shift = np.float32(objective.unobserved_shift)
        weights = confidence - (shift if block.weights is None else shift * block.weights)
    lambdas = lambdas_of(objective, regularization, side, rank)
    gram = None if source.gram is None else np.float32(objective.unobserved_weight) * source.gram
    scales = scales_of(objective, regularization, objective.n_counted(block), source.n_rows)
    return Equations(targets, weights, constants, scales, lambdas, gram)


def lambdas_of(objective: Objective, regularization: Regularization, side: Side, rank: int) -> NDArray[np.float64]:
    """float64[padded_rank(rank)], λ of each column of the factors, including the bias column."""
    lambdas = np.zeros(padded_rank(rank))
    lambdas[:rank] = regularization.of(side)
    if objective.has_biases:
        lambdas[rank - 1] = regularization.bias
    return lambdas


def scales_of(
    objective: Objective, regularization: Regularization, counted: NDArray[np.float64], n_src: int
) -> NDArray[np.float64]:
    """float64[n_rows], the number of times that λ counts for rows with this many ratings.

    counted : float64[n_rows], `n_counted` of all ratings of each row
    n_src : number of rows of the other side
    """
    if regularization.scaling == "none":
        return np.ones(counted.size)
    if regularization.scaling == "count":
        return counted
    scales: NDArray[np.float64] = (counted + objective.unobserved_weight * n_src) ** regularization.scaling
    return scales
