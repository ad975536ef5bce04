"""The records of blocks, as stored and sent."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels.csr import PackedBlock

Side = Literal["user", "item"]
"""The side that a block solves: the destination."""

OTHER: dict[Side, Side] = {"user": "item", "item": "user"}


class RatingBlock(NamedTuple):
    """All ratings of some consecutive destination rows; or part of the ratings of one row."""

    train: PackedBlock
    validation: PackedBlock
    """Validation ratings of the same rows; evaluated after each iteration. Empty in item blocks."""
    is_part: bool = False
    sources: NDArray[np.int32] | None = None
    """Set if the other side is wide, on the first record of a block: the dense indices of the source rows that its
    records need, ascending. The entries of the records are positions among these."""
    digest: int = 0
    """`digest_of` all training ratings of a block, on its first record. Spark may build a lost block again: if it reads
    other ratings then, the digest is another one."""


class OutBlock(NamedTuple):
    """The rows of a source block that a destination block needs."""

    target: int
    """Part of the destination block."""
    rows: NDArray[np.int32]
    """Dense indices, ascending."""
