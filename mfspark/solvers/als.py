"""ALS as the training loop sees it: a function that solves one block."""

from dataclasses import dataclass

import numpy as np

from mfspark.kernels.als import solve_explicit
from mfspark.kernels.cg import solve_explicit_cg
from mfspark.kernels.csr import build_packed_block
from mfspark.kernels.loss import penalty, squared_error
from mfspark.kernels.padding import pad_factors
from mfspark.solvers.blocks import RatingBlock
from mfspark.solvers.exchange import BlockUpdate, Factors


@dataclass(frozen=True)
class ExplicitALS:
    """Alternating least squares for explicit ratings, λ counted once per rating (ALS-WR)."""

    rank: int
    regularization: float
    """λ ≥ 0."""
    cg_steps: int = 0
    """Steps of conjugate gradients from the old factors; 0 solves exactly."""

    @property
    def starts_from_old(self) -> bool:
        """Whether `update_block` needs the factors that it replaces."""
        return self.cg_steps > 0

    def compile(self) -> None:
        """Have the kernels compiled, on one rating, into the cache that executors on this machine read."""
        zero = np.zeros(1, np.int32)
        block = build_packed_block(0, 1, 1, zero, zero, np.zeros(1, np.uint8), np.ones(1, np.float32))
        factors = np.ones((1, self.rank), np.float32)
        self.update_block(RatingBlock(block, block), pad_factors(factors), factors if self.starts_from_old else None)

    def update_block(self, block: RatingBlock, src_factors: Factors, old_factors: Factors | None) -> BlockUpdate:
        """Solve one block. Runs on executors.

        src_factors : float32[n_src, padded_rank(rank)], as `SentPadded` arrives
        old_factors : float32[n_dst, rank], of all rows of the block's side; None where they are not needed
        """
        train, validation = block.train.unpack(), block.validation.unpack()
        if old_factors is None:
            solved = solve_explicit(train, src_factors, self.regularization, rank=self.rank)
        else:
            solved = solve_explicit_cg(
                train,
                src_factors,
                old_factors[train.rows],
                self.regularization,
                rank=self.rank,
                steps=self.cg_steps,
            )
        return BlockUpdate(
            rows=train.rows,
            factors=solved.factors,
            singular_row=train.first_row + solved.singular_row if solved.singular_row >= 0 else -1,
            penalty=penalty(train, solved.factors),
            squared_error=solved.squared_error,
            validation_squared_error=squared_error(validation, pad_factors(solved.factors), src_factors),
            n_validation=validation.src.size,
        )
