"""Solve the rows of one block, with the other side fixed: the task of an ALS half-iteration."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mfspark.blocks.records import RatingBlock, Side
from mfspark.kernels.als import SolvedRows, solve_exactly
from mfspark.kernels.cg import solve_by_cg
from mfspark.kernels.csr import InBlock, build_packed_block
from mfspark.kernels.equations import Equations
from mfspark.kernels.loss import squared_error
from mfspark.kernels.nonnegative import solve_nonnegative
from mfspark.kernels.padding import pad_factors, padded_rank
from mfspark.kernels.quadratic import Quadratic, sum_of_squares
from mfspark.kernels.subspace import solve_by_subspaces
from mfspark.training.exchange import BlockUpdate, Factors, PaddedFactors, RowSums, Source
from mfspark.training.objective import Objective, Regularization, centered, equations, lambdas_of, scales_of

Solver = Literal["cholesky", "cg", "subspace", "nonnegative"]


@dataclass(frozen=True)
class RowSolver:
    """Solves the rows of a block, exactly or approximately."""

    rank: int
    """Number of latent factors; a bias has its own column after them."""
    regularization: Regularization
    objective: Objective
    solver: Solver = "cholesky"
    cg_steps: int = 3

    @property
    def n_columns(self) -> int:
        """Columns of the factor matrices."""
        return self.rank + self.objective.has_biases

    @property
    def starts_from_old(self) -> bool:
        """Whether `update_block` needs the factors that it replaces."""
        return self.solver != "cholesky"

    @property
    def needs_gram(self) -> bool:
        """Whether unobserved pairs count: then a half-iteration needs Σ y yᵀ of all sources."""
        return self.objective.unobserved_weight > 0

    def source(self, factors: Factors, gram: NDArray[np.float64] | None, n_rows: int | None = None) -> Source:
        """The fixed side, as a block needs it.

        factors : float32[n_src, n_columns]
        gram : float64[n_columns, n_columns], of the whole side, if needed
        n_rows : number of rows of the whole side, if `factors` has only some of them
        """
        biases = None
        n_rows = len(factors) if n_rows is None else n_rows
        if self.objective.has_biases:
            # The source's bias is subtracted from the ratings; the 1 in its place gives the solved row's own bias.
            biases, factors = factors[:, -1].copy(), factors.copy()
            factors[:, -1] = 1
        padded_gram = None
        if self.needs_gram and gram is not None:
            padded_gram = np.zeros((padded_rank(self.n_columns),) * 2, np.float32)
            padded_gram[: self.n_columns, : self.n_columns] = gram
            padded_gram = padded_gram.ravel()
        return Source(PaddedFactors(factors), biases, padded_gram, n_rows)

    def compile(self) -> None:
        """Compile the kernels on one rating, into the cache that executors on this machine read."""
        zero = np.zeros(1, np.int32)
        block = build_packed_block(0, 1, 1, zero, zero, np.zeros(1, np.uint8), np.ones(1, np.float32))
        factors = np.ones((1, self.n_columns), np.float32)
        source = self.source(factors, np.ones((self.n_columns, self.n_columns)))
        self.update_block("user", RatingBlock(block, block), source, factors)

    def update_block(self, side: Side, block: RatingBlock, source: Source, old: Factors | None) -> BlockUpdate:
        """Solve one block of whole rows. Runs on executors.

        old : float32[n_rows, n_columns], the rows that the solved ones replace; None if they are not needed
        """
        train, validation = (
            centered(self.objective, part.unpack(), source) for part in (block.train, block.validation)
        )
        system = equations(self.objective, self.regularization, side, self.n_columns, train, source)
        solved = self._solve(train, source.factors.matrix, system, old)
        judged = self.objective.observe(validation)
        validation_error = 0.0
        if validation.src.size:
            validation_error = squared_error(validation, pad_factors(solved.factors), source.factors.matrix, *judged)
        return self._update(
            train.rows,
            solved.factors,
            system,
            singular_row=train.first_row + solved.singular_row if solved.singular_row >= 0 else -1,
            squared_error=solved.squared_error,
            weight=_total(train, train.weights),
            validation_squared_error=validation_error,
            validation_weight=_total(validation, judged.confidence),
        )

    def sum_part(self, side: Side, block: RatingBlock, source: Source) -> RowSums:
        """Sum the normal equation over some of the ratings of one row. Runs on executors."""
        train, validation = (
            centered(self.objective, part.unpack(), source) for part in (block.train, block.validation)
        )
        system = equations(self.objective, self.regularization, side, self.n_columns, train, source)
        targets, confidence = self.objective.observe(validation)
        weighted = targets if confidence is None else confidence * targets
        sources, n_columns = source.factors.matrix, self.n_columns
        if system.constants is None:
            constant = float(np.square(system.targets, dtype=np.float64).sum())
        else:
            constant = float(system.constants.sum())
        return RowSums(
            row=train.first_row,
            train=sum_of_squares(train.src, sources, n_columns, system.targets, system.weights, constant),
            validation=sum_of_squares(
                validation.src, sources, n_columns, weighted, confidence, float(weighted.astype(np.float64) @ targets)
            ),
            n_counted=float(self.objective.n_counted(train).sum()),
            weight=_total(train, train.weights),
            validation_weight=_total(validation, confidence),
        )

    def update_row(self, side: Side, sums: RowSums, n_src: int, gram: NDArray[np.float64] | None) -> BlockUpdate:
        """Solve a row from the sums over all its ratings, exactly with any solver. Runs on the driver.

        n_src, gram : number of rows of the fixed side, and their Gram matrix, if needed
        """
        scales = scales_of(self.objective, self.regularization, np.array([sums.n_counted]), n_src)
        lambdas = lambdas_of(self.objective, self.regularization, side, self.n_columns)
        form = sums.train
        if self.needs_gram and gram is not None:
            form = form._replace(A=form.A + self.objective.unobserved_weight * gram)
        ridge = Quadratic(np.diag(scales[0] * lambdas[: self.n_columns]), np.zeros(self.n_columns), 0.0)
        x = form.plus(ridge).minimum(self.solver == "nonnegative")
        is_solved = x is not None
        x = np.zeros(self.n_columns, np.float32) if x is None else x
        nothing = np.empty(0, np.float32)
        return self._update(
            slice(sums.row, sums.row + 1),
            x[np.newaxis],
            Equations(nothing, None, None, scales, lambdas, None),
            singular_row=-1 if is_solved else sums.row,
            squared_error=form.at(x),
            weight=sums.weight,
            validation_squared_error=sums.validation.at(x),
            validation_weight=sums.validation_weight,
        )

    def _update(self, rows: slice, factors: Factors, system: Equations, **found: float) -> BlockUpdate:
        of_columns = system.penalty(factors)
        overflowed = overflowed_row(factors)
        return BlockUpdate(
            rows,
            factors,
            overflowed_row=rows.start + overflowed if overflowed >= 0 else -1,
            scales=system.scales,
            penalty=float(of_columns[: self.rank].sum()),
            bias_penalty=float(of_columns[self.rank :].sum()),
            gram=gram_of(factors) if self.needs_gram else None,
            **found,  # type: ignore[arg-type]  # singular_row is an int
        )

    def _solve(self, block: InBlock, src_factors: Factors, system: Equations, old: Factors | None) -> SolvedRows:
        if self.solver == "cholesky":
            return solve_exactly(block, src_factors, self.n_columns, system)
        assert old is not None  # starts_from_old
        old = np.ascontiguousarray(old)
        if self.solver == "cg":
            return solve_by_cg(block, src_factors, old, system, steps=self.cg_steps)
        if self.solver == "subspace":
            return solve_by_subspaces(block, src_factors, old, system)
        return solve_nonnegative(block, src_factors, old, system)


def _total(block: InBlock, weights: NDArray[np.float32] | None) -> float:
    return float(block.src.size if weights is None else weights.sum(dtype=np.float64))


def overflowed_row(factors: Factors) -> int:
    """The first row with an infinite or NaN number; -1 if there is none."""
    if np.isfinite(factors).all():
        return -1
    return int(np.argmin(np.isfinite(factors).all(axis=1)))


def gram_of(factors: Factors) -> NDArray[np.float64]:
    """Σ x xᵀ over all rows: float32[n, n_columns] to float64[n_columns, n_columns]."""
    doubles = factors.astype(np.float64)
    gram: NDArray[np.float64] = doubles.T @ doubles
    return gram
