"""A digest of ratings that does not depend on their order: the same from user blocks and from item blocks."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Multipliers of the finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014, figure 14).
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def digest_of(users: NDArray[Any], items: NDArray[Any], ratings: NDArray[Any]) -> int:
    """Σ of a 64-bit hash of each rating, modulo 2^64.

    Parameters
    ----------
    users, items : int32[n] or uint16[n], dense indices
    ratings : float32[n], uint64[n] or uint8[n], bits or codes of the values

    Cost: about 10 ns per rating. Runs on executors.
    """
    pairs = users.astype(np.uint64) << np.uint64(32) | items.astype(np.uint64)
    values = ratings.view(np.uint32) if ratings.dtype == np.float32 else ratings
    return int(_mixed(_mixed(pairs) ^ values.astype(np.uint64)).sum())


def total(digests: Iterable[int]) -> int:
    """The digest of all ratings from those of parts."""
    return sum(digests) % (1 << 64)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number hashed; overflow wraps around."""
    hashed: NDArray[np.uint64] = (numbers ^ numbers >> np.uint64(30)) * _FIRST
    hashed = (hashed ^ hashed >> np.uint64(27)) * _SECOND
    hashed ^= hashed >> np.uint64(31)
    return hashed
