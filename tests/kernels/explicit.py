"""The kernels for plain explicit ratings, on factors without padding."""

import numpy as np

from mfspark.kernels import loss
from mfspark.kernels.als import solve_exactly
from mfspark.kernels.cg import solve_by_cg
from mfspark.kernels.equations import Equations
from mfspark.kernels.padding import pad_factors, padded_rank


def explicit_equations(in_block, rank, regularization):
    """(Σ y yᵀ + λ n I) x = Σ r y."""
    scales = np.diff(in_block.offsets).astype(np.float64)
    return Equations(in_block.ratings, None, None, scales, np.full(padded_rank(rank), float(regularization)), None)


def solve_explicit(in_block, src_factors, regularization):
    rank = src_factors.shape[1]
    return solve_exactly(in_block, pad_factors(src_factors), rank, explicit_equations(in_block, rank, regularization))


def solve_explicit_cg(in_block, src_factors, dst_factors, regularization, *, steps):
    equations = explicit_equations(in_block, src_factors.shape[1], regularization)
    return solve_by_cg(in_block, pad_factors(src_factors), dst_factors, equations, steps=steps)


def squared_error(in_block, dst_factors, src_factors):
    return loss.squared_error(in_block, dst_factors, src_factors, in_block.ratings, None)


def penalty(in_block, dst_factors):
    """Σ n |x|², by the equations with λ = 1."""
    return explicit_equations(in_block, dst_factors.shape[1], 1.0).penalty(dst_factors).sum()
