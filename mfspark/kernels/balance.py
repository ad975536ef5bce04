"""Cutting a row of weights into contiguous parts of about the same sum."""

import numpy as np
from numpy.typing import NDArray


def cut_evenly(weights: NDArray[np.int64], n_parts: int) -> NDArray[np.int64]:
    """Bounds of n_parts contiguous parts, each cut set where the running sum is nearest to its even share.

    Parameters
    ----------
    weights : int64[n], all ≥ 0
    n_parts : ≥ 1; parts beyond the number of weights are empty

    Returns
    -------
    int64[n_parts + 1]    ascending, from 0 to n; no part exceeds the even share by more than the largest weight

    >>> cut_evenly(np.array([5, 1, 1, 1, 1, 1]), 2).tolist()
    [0, 1, 6]
    """
    running = np.concatenate([[0], np.cumsum(weights)])
    shares = running[-1] * np.arange(n_parts + 1) / n_parts
    above = np.searchsorted(running, shares).clip(1, max(len(weights), 1))
    above = np.minimum(above, len(weights))
    below = np.maximum(above - 1, 0)
    cuts = np.where(shares - running[below] <= running[above] - shares, below, above)
    cuts[0], cuts[-1] = 0, len(weights)
    bounds: NDArray[np.int64] = cuts.astype(np.int64)
    return bounds
