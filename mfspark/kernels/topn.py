"""Top-N: score tiles of users against all items, leave out what is seen, keep the best."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Users scored at once: enough for GEMM to run at its peak, few enough for the scores to stay in the cache.
_TILE_ROWS = 64
# Scores looked at together: most chunks hold nothing better than what is kept.
_CHUNK = 128


class TopN(NamedTuple):
    """Recommendations of a batch of users, best first, CSR by user: user u owns offsets[u]:offsets[u + 1]."""

    offsets: NDArray[np.int32]
    items: NDArray[np.int32]
    scores: NDArray[np.float32]


def top_n(
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    n: int,
    seen_offsets: NDArray[np.int64],
    seen_items: NDArray[np.int32],
) -> TopN:
    """Best n unseen items of each user by the dot product x·y; equal scores: the lower item index first.

    Parameters
    ----------
    user_factors : float32[n_users, rank]
    item_factors : float32[n_items, rank]
    n : n ≥ 1
    seen_offsets, seen_items : int64[n_users + 1], int32[…]   items to leave out, CSR by user, in any order

    Returns
    -------
    TopN    exactly min(n, number of unseen items) entries a user

    Cost: n_users·n_items·rank multiply-adds (GEMM) and one scan of the scores. Runs on executors.
    """
    n_users, n_items = len(user_factors), len(item_factors)
    n = min(n, n_items)
    items = np.empty((n_users, n), np.int32)
    scores = np.empty((n_users, n), np.float32)
    counts = np.empty(n_users, np.int32)
    for start in range(0, n_users, _TILE_ROWS):
        tile = slice(start, min(start + _TILE_ROWS, n_users))
        tile_scores = user_factors[tile] @ item_factors.T
        _mask_seen(tile_scores, seen_offsets[tile.start : tile.stop + 1], seen_items)
        _select_best(tile_scores, items[tile], scores[tile], counts[tile])
    is_filled = np.arange(n) < counts[:, None]
    offsets = np.zeros(n_users + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return TopN(offsets, items[is_filled], scores[is_filled])


@njit(cache=True, nogil=True)
def _mask_seen(scores, offsets, seen_items):  # type: ignore[no-untyped-def]
    for row in range(scores.shape[0]):
        for entry in range(offsets[row], offsets[row + 1]):
            scores[row, seen_items[entry]] = -np.inf


@njit(cache=True, nogil=True)
def _select_best(scores, best_items, best_scores, counts):  # type: ignore[no-untyped-def]
    """Keep the best of each row by insertion: few scores get past the worst one kept."""
    n_items, n = scores.shape[1], best_items.shape[1]
    for row in range(scores.shape[0]):
        count = 0
        worst = np.float32(-np.inf)
        for first in range(0, n_items, _CHUNK):
            last = min(first + _CHUNK, n_items)
            if not _has_greater(scores[row, first:last], worst):
                continue
            for item in range(first, last):
                # Strictly greater: of equal scores the item met first stays. While the list is short, worst is
                # -inf, so a seen item never gets in.
                if scores[row, item] > worst:
                    _insert(best_scores[row], best_items[row], count, scores[row, item], item)
                    count = min(count + 1, n)
                    if count == n:
                        worst = best_scores[row, n - 1]
        counts[row] = count


@njit(cache=True, nogil=True)
def _has_greater(scores, bound):  # type: ignore[no-untyped-def]
    """Whether a score is greater; without a way out in between, so that it vectorises."""
    n_greater = np.int32(0)
    for i in range(scores.size):
        n_greater += np.int32(scores[i] > bound)
    return n_greater > 0


@njit(cache=True, nogil=True)
def _insert(best_scores, best_items, count, score, item):  # type: ignore[no-untyped-def]
    """Put a score into its place among the first `count`, descending; a full list loses its last."""
    position = min(count, best_scores.size - 1)
    while position > 0 and best_scores[position - 1] < score:
        best_scores[position] = best_scores[position - 1]
        best_items[position] = best_items[position - 1]
        position -= 1
    best_scores[position] = score
    best_items[position] = item
