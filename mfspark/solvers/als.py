"""ALS as the training loop sees it: a function that solves one block."""

from dataclasses import dataclass

from mfspark.kernels.als import solve_explicit
from mfspark.kernels.loss import penalty, squared_error
from mfspark.kernels.padding import pad_factors
from mfspark.solvers.blocks import RatingBlock
from mfspark.solvers.exchange import BlockUpdate, Factors


@dataclass(frozen=True)
class ExplicitALS:
    """Exact alternating least squares for explicit ratings, λ counted once per rating (ALS-WR)."""

    rank: int
    regularization: float
    """λ ≥ 0."""

    def update_block(self, block: RatingBlock, src_factors: Factors) -> BlockUpdate:
        """Solve one block. Runs on executors.

        src_factors : float32[n_src, padded_rank(rank)], as `SentPadded` arrives
        """
        train, validation = block.train.unpack(), block.validation.unpack()
        factors, loss, singular_row = solve_explicit(train, src_factors, self.regularization, rank=self.rank)
        return BlockUpdate(
            rows=train.rows,
            factors=factors,
            singular_row=train.first_row + singular_row if singular_row >= 0 else -1,
            n_ratings=train.src.size,
            penalty=penalty(train, factors),
            squared_error=loss,
            validation_squared_error=squared_error(validation, pad_factors(factors), src_factors),
            n_validation=validation.src.size,
        )
