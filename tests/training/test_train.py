"""Training, without the ratings: what is done beside them."""

import pytest

from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.objective import Implicit, Regularization
from mfspark.training.train import _compile


def test_kernels_are_compiled_for_settings_that_overflow():
    regularization = Regularization(user=0.1, item=0.1, bias=0.1)
    solver = AlternatingLeastSquares(2, regularization, Implicit(alpha=1.0, all_pairs_weight=1e300))
    with pytest.raises(RuntimeWarning):  # of the made-up numbers that kernels are compiled with
        solver.compile()
    _compile(solver)
