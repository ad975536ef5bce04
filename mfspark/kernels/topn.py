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
# Users whom a panel of items serves before the next one is fetched.
_GROUP = 4 * _TILE
# An entry of a list is one int64, place << 32 | item: the lesser, the better. The place of a score x is an int32: its
# bits without the sign, negated where x is positive. So it falls where x rises, and 0 and −0 have the same.
_NO_ENTRY = np.int64(2**63 - 1)
_ALL_BUT_SIGN = np.int32(2**31 - 1)


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
    TopN    exactly min(n, number of unseen items) entries a user; an item whose score is NaN or −inf counts as seen

    Cost: n_users·n_items·rank multiply-adds; a few operations an item and user for long lists, whatever n; a copy of
    both matrices, 16·n bytes a user and n KiB. The scores never leave the L1 cache. Runs on executors.
    """
    n_users, n_items = len(user_factors), len(item_factors)
    entries = np.full((n_users, min(n, n_items)), _NO_ENTRY)
    _select_best(
        _interleave(user_factors, _TILE),
        _interleave(item_factors, _PANEL),
        user_factors.shape[1],
        n_items,
        seen_offsets,
        seen_items,
        entries,
    )
    entries.sort(axis=1)
    offsets = np.zeros(n_users + 1, np.int32)
    np.cumsum((entries != _NO_ENTRY).sum(axis=1), out=offsets[1:])
    best = TopN(offsets, np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32))
    _unpack(entries, *best)
    return best


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
def _select_best(users, items, rank, n_items, seen_offsets, seen_items, entries):  # type: ignore[no-untyped-def]
    """Assign the best entries of each user to entries[user], int64[n], in any order; leave the rest alone.

    users, items : float32, from `_interleave`
    """
    n_users, n = entries.shape
    n_rows = min(_GROUP, n_users)
    # A list grows to twice its length before its worse half is dropped: a few steps an entry, whatever n is.
    kept, counts = np.empty((n_rows, 2 * n + _PANEL), np.int64), np.empty(n_rows, np.int64)
    worst = np.empty(n_rows, np.float32)  # what a score must exceed to be kept
    next_seen = np.empty(n_rows, np.int64)  # the first seen item that was not passed yet
    scores = np.empty(_TILE * _PANEL, np.float32)
    for first_user in range(0, n_users, _GROUP):
        last_user = min(first_user + _GROUP, n_users)
        for user in range(first_user, last_user):
            row = user - first_user
            counts[row], worst[row], next_seen[row] = 0, -np.inf, seen_offsets[user]
        for first_item in range(0, n_items, _PANEL):
            are_items = (1 << min(_PANEL, n_items - first_item)) - 1
            for tile in range(first_user, last_user, _TILE):
                tiles.assign_product_16x2(users, tile * rank, _TILE, items, first_item * rank, _PANEL, rank, scores, 0)
                for user in range(tile, min(tile + _TILE, last_user)):
                    row, first_score = user - first_user, (user - tile) * _PANEL
                    # Most rows hold nothing better than what is kept.
                    if tiles.any_greater_32(scores, first_score, worst[row]):
                        # Strictly greater: of equal scores the item met first stays.
                        greater = tiles.greater_32(scores, first_score, worst[row]) & are_items
                        end_seen = seen_offsets[user + 1]
                        greater, next_seen[row] = _without_seen(
                            greater, first_item, seen_items, next_seen[row], end_seen
                        )
                        counts[row] = _append(greater, scores, first_score, first_item, kept[row], counts[row])
                        if counts[row] >= 2 * n:
                            counts[row] = _keep_best(kept[row], counts[row], n)
                            worst[row] = _score(kept[row, n - 1])
        for user in range(first_user, last_user):
            row = user - first_user
            for i in range(_keep_best(kept[row], counts[row], n)):
                entries[user, i] = kept[row, i]


@njit(cache=True, nogil=True)
def _without_seen(bits, first_item, seen_items, next_seen, end):  # type: ignore[no-untyped-def]
    """Clear the bits of seen items; also return the first seen item behind the panel.

    bits : bit i for item first_item + i
    """
    while next_seen < end and seen_items[next_seen] < first_item + _PANEL:
        if seen_items[next_seen] >= first_item:
            bits &= ~(1 << seen_items[next_seen] - first_item)
        next_seen += 1
    return bits, next_seen


@njit(cache=True, nogil=True)
def _append(bits, scores, first_score, first_item, entries, count):  # type: ignore[no-untyped-def]
    """Append the entries of the items whose bits are 1; return the new count."""
    while bits:
        i = tiles.lowest_bit(bits)
        bits &= bits - 1
        entries[count] = _entry(scores[first_score + i], first_item + i)
        count += 1
    return count


@njit(cache=True, nogil=True)
def _entry(score, item):  # type: ignore[no-untyped-def]
    """The entry of an item with this score."""
    bits = np.float32(score).view(np.int32)
    place = -bits if bits >= 0 else bits & _ALL_BUT_SIGN
    return np.int64(place) << 32 | item


@njit(cache=True, nogil=True)
def _score(entry):  # type: ignore[no-untyped-def]
    """The score of an entry's item; 0 if it was −0."""
    place = np.int32(entry >> 32)
    score = np.int32(abs(place)).view(np.float32)
    return -score if place > 0 else score


@njit(cache=True, nogil=True)
def _unpack(entries, offsets, items, scores):  # type: ignore[no-untyped-def]
    """Assign the item and the score of the entries of each user."""
    for user in range(len(entries)):
        for i in range(offsets[user], offsets[user + 1]):
            entry = entries[user, i - offsets[user]]
            items[i], scores[i] = np.int32(entry), _score(entry)


@njit(cache=True, nogil=True)
def _keep_best(entries, count, n):  # type: ignore[no-untyped-def]
    """Put the n least of entries[:count] into entries[:n], the greatest of them last; return how many are left.

    Quickselect: the time grows with count alone. No two entries are equal.
    """
    if count <= n:
        return count
    low, high = np.int64(0), count
    while low < high:
        pivot_at = _middle(entries, low, high)
        pivot, entries[pivot_at] = entries[pivot_at], entries[high - 1]
        n_less = low
        for i in range(low, high - 1):
            # Without a branch, because no processor predicts which entries are less.
            entry = entries[i]
            entries[i] = entries[n_less]
            entries[n_less] = entry
            n_less += entry < pivot
        entries[high - 1], entries[n_less] = entries[n_less], pivot
        # The n-th is the pivot, and then nothing is left, or to one side of it.
        if n_less < n:
            low = n_less + 1
        if n_less >= n - 1:
            high = n_less
    return n


@njit(cache=True, nogil=True)
def _middle(entries, low, high):  # type: ignore[no-untyped-def]
    """The position of the median of three of entries[low:high]."""
    quarter = (high - low) // 4
    i, j, k = low + quarter, low + 2 * quarter, high - 1 - quarter
    if (entries[i] < entries[j]) == (entries[j] < entries[k]):
        return j
    return i if (entries[j] < entries[i]) == (entries[i] < entries[k]) else k
