"""Top-N: score a tile of users against a panel of items in registers, keep the best of what is not seen."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.kernels import tiles
from mfspark.kernels.compiled import njit
from mfspark.kernels.padding import empty_lines

# Users and items of one product: their sums fill the registers, their factors the L1 cache.
_TILE = 16
_PANEL = 32
# Tiles that a panel of items serves before the next one is fetched.
_TILES_A_PANEL = 4


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
    seen_offsets, seen_items : int64[n_users + 1], int32[…]   items to leave out, CSR by user, ascending

    Returns
    -------
    TopN    exactly min(n, number of unseen items) entries a user

    Cost: n_users·n_items·rank multiply-adds; a copy of both matrices; the scores never leave the L1 cache. Runs on
    executors.
    """
    n_users, n_items = len(user_factors), len(item_factors)
    n = min(n, n_items)
    best = _Best(
        np.empty((n_users, n), np.int32),
        np.empty((n_users, n), np.float32),
        np.zeros(n_users, np.int32),
        np.full(n_users, -np.inf, np.float32),
    )
    _select_best(
        _interleave(user_factors, _TILE),
        _interleave(item_factors, _PANEL),
        user_factors.shape[1],
        n_items,
        _Seen(seen_offsets, seen_items, seen_offsets.copy()),
        best,
    )
    is_filled = np.arange(n) < best.counts[:, None]
    offsets = np.zeros(n_users + 1, np.int32)
    np.cumsum(best.counts, out=offsets[1:])
    return TopN(offsets, best.items[is_filled], best.scores[is_filled])


class _Seen(NamedTuple):
    """Items to leave out."""

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    next: NDArray[np.int64]
    """[n_users + 1], the first of each user's that was not passed yet."""


class _Best(NamedTuple):
    """The best items of each user so far, best first."""

    items: NDArray[np.int32]
    """int32[n_users, n]."""
    scores: NDArray[np.float32]
    """float32[n_users, n]."""
    counts: NDArray[np.int32]
    """int32[n_users], of items that are kept."""
    worst: NDArray[np.float32]
    """float32[n_users], what a score must exceed to be kept."""


def _interleave(factors: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Groups of `width` rows, each group transposed: [group][factor][row], flat; rows behind the last are zeros."""
    n_rows, rank = factors.shape
    n_groups = -(-n_rows // width)
    groups = empty_lines(n_groups * rank * width).reshape(n_groups, rank, width)
    n_whole = n_rows // width
    groups[:n_whole] = factors[: n_whole * width].reshape(n_whole, width, rank).transpose(0, 2, 1)
    if n_whole < n_groups:
        groups[n_whole] = 0.0
        groups[n_whole, :, : n_rows % width] = factors[n_whole * width :].T
    return groups.reshape(-1)


@njit(cache=True, nogil=True)
def _select_best(users, items, rank, n_items, seen, best):  # type: ignore[no-untyped-def]
    """Users, items : float32, from `_interleave`."""
    n_users, worst = best.counts.size, best.worst
    tile_scores = np.empty(_TILE * _PANEL, np.float32)
    for first_user in range(0, n_users, _TILES_A_PANEL * _TILE):
        last_user = min(first_user + _TILES_A_PANEL * _TILE, n_users)
        for first_item in range(0, n_items, _PANEL):
            n_scores = min(_PANEL, n_items - first_item)
            for tile in range(first_user, last_user, _TILE):
                tiles.assign_product_16x2(
                    users, tile * rank, _TILE, items, first_item * rank, _PANEL, rank, tile_scores, 0
                )
                for user in range(tile, min(tile + _TILE, last_user)):
                    first_score = (user - tile) * _PANEL
                    # Most rows hold nothing better than what is kept.
                    if tiles.any_greater_32(tile_scores, first_score, worst[user]):
                        _keep_best(tile_scores[first_score : first_score + n_scores], user, first_item, seen, best)


@njit(cache=True, nogil=True)
def _keep_best(scores, user, first_item, seen, best):  # type: ignore[no-untyped-def]
    """Put what is better than the worst one kept into the user's list, unless seen.

    scores : float32[n], of the items from first_item on
    """
    best_items, best_scores = best.items[user], best.scores[user]
    worst, next_seen, end = best.worst[user], seen.next[user], seen.offsets[user + 1]
    for i in range(scores.size):
        # Strictly greater: of equal scores the item met first stays.
        if scores[i] > worst:
            while next_seen < end and seen.items[next_seen] < first_item + i:
                next_seen += 1
            if next_seen == end or seen.items[next_seen] != first_item + i:
                _insert(best_scores, best_items, best.counts[user], scores[i], first_item + i)
                best.counts[user] = min(best.counts[user] + 1, best_scores.size)
                if best.counts[user] == best_scores.size:
                    worst = best_scores[-1]
    best.worst[user], seen.next[user] = worst, next_seen


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
