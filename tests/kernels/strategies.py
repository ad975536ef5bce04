"""Random inputs for the property tests of the kernels."""

from typing import NamedTuple

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

# The first call of a kernel compiles it, so no deadline; derandomized, so that a run is repeatable.
kernel_property = settings(deadline=None, derandomize=True, max_examples=100)


class RatedRows(NamedTuple):
    """Unordered ratings of the destination rows first_row .. first_row + n_rows - 1."""

    first_row: int
    n_rows: int
    dst: np.ndarray
    src: np.ndarray
    ratings: np.ndarray

    @property
    def triples(self):
        return list(zip(self.dst.tolist(), self.src.tolist(), self.ratings.tolist(), strict=True))


@st.composite
def rated_rows(draw, n_src=6, min_size=0):
    """Ratings of few rows and few sources, so that repeated pairs and empty rows are common."""
    first_row, n_rows = draw(st.integers(0, 1000)), draw(st.integers(1, 6))
    triple = st.tuples(st.integers(first_row, first_row + n_rows - 1), st.integers(0, n_src - 1), st.integers(-6, 10))
    triples = draw(st.lists(triple, min_size=min_size, max_size=40))
    return rated(first_row, n_rows, [(dst, src, rating / 2) for dst, src, rating in triples])


def rated(first_row, n_rows, triples):
    """RatedRows of a list of (destination row, source row, rating)."""
    dst, src, ratings = zip(*triples, strict=True) if triples else ((), (), ())
    return RatedRows(first_row, n_rows, np.array(dst, np.int32), np.array(src, np.int32), np.array(ratings, np.float32))
