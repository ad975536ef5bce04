"""The records that blocks are kept and sent as."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.csr import PackedBlock

Side = Literal["user", "item"]
"""Which factors a block solves: the destination."""

OTHER: dict[Side, Side] = {"user": "item", "item": "user"}


class RatingBlock(NamedTuple):
    """All ratings of some consecutive destination rows; or, as a part, some of the ratings of one row."""

    train: PackedBlock
    validation: PackedBlock
    """Same rows; judged after each iteration, never trained on. Empty in item blocks: one side suffices."""
    is_part: bool = False
    sources: NDArray[np.int32] | None = None
    """Set where the other side is wide, on the first record of a block: the dense indices of the rows that its records
    need, ascending; their entries count among these."""


class OutBlock(NamedTuple):
    """The rows of one source block that one destination block needs."""

    target: int
    """Part of the destination block."""
    rows: NDArray[np.int32]
    """Dense indices, ascending."""
