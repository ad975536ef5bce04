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
    items = np.empty((n_users, n), np.int32)
    scores = np.empty((n_users, n), np.float32)
    counts = np.zeros(n_users, np.int32)
    _select_best(
        _interleave(user_factors, _TILE),
        _interleave(item_factors, _PANEL),
        user_factors.shape[1],
        n_items,
        seen_offsets,
        seen_items,
        items,
        scores,
        counts,
    )
    is_filled = np.arange(n) < counts[:, None]
    offsets = np.zeros(n_users + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return TopN(offsets, items[is_filled], scores[is_filled])


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
def _select_best(users, items, rank, n_items, seen_offsets, seen_items, best_items, best_scores, counts):  # type: ignore[no-untyped-def]
    n_users = best_items.shape[0]
    tile_scores = np.empty(_TILE * _PANEL, np.float32)
    worst = np.full(n_users, -np.inf, np.float32)
    next_seen = seen_offsets.copy()
    for first_user in range(0, n_users, _TILES_A_PANEL * _TILE):
        last_user = min(first_user + _TILES_A_PANEL * _TILE, n_users)
        for first_item in range(0, n_items, _PANEL):
            last_item = min(first_item + _PANEL, n_items)
            for tile in range(first_user, last_user, _TILE):
                tiles.assign_product_16x2(
                    users, tile * rank, _TILE, items, first_item * rank, _PANEL, rank, tile_scores, 0
                )
                for user in range(tile, min(tile + _TILE, last_user)):
                    row = (user - tile) * _PANEL
                    # Most rows hold nothing better than what is kept.
                    if tiles.any_greater_32(tile_scores, row, worst[user]):
                        worst[user] = _keep_best(
                            tile_scores[row : row + last_item - first_item],
                            first_item,
                            worst[user],
                            seen_items[: seen_offsets[user + 1]],
                            next_seen[user : user + 1],
                            best_items[user],
                            best_scores[user],
                            counts[user : user + 1],
                        )


@njit(cache=True, nogil=True)
def _keep_best(scores, first_item, worst, seen_items, next_seen, best_items, best_scores, count):  # type: ignore[no-untyped-def]
    """Put what is better than the worst one kept into the user's list, unless seen; the worst one kept then."""
    for i in range(scores.size):
        # Strictly greater: of equal scores the item met first stays.
        if scores[i] > worst:
            while next_seen[0] < seen_items.size and seen_items[next_seen[0]] < first_item + i:
                next_seen[0] += 1
            if next_seen[0] == seen_items.size or seen_items[next_seen[0]] != first_item + i:
                _insert(best_scores, best_items, count[0], scores[i], first_item + i)
                count[0] = min(count[0] + 1, best_scores.size)
                if count[0] == best_scores.size:
                    worst = best_scores[-1]
    return worst


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
