"""The digest of ratings, against Python's whole numbers."""

import numpy as np

from mfspark.kernels.digest import digest_of, total


def mixed(number):
    """The finalizer of splitmix64."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
    return number ^ (number >> 31)


def test_digest_is_the_sum_of_the_hashes():
    users, items = np.array([3, 2**31 - 1, 0], np.int32), np.array([0, 65535, 7], np.uint16)
    codes = np.array([0, 255, 4], np.uint8)
    expected = sum(mixed(mixed((int(u) << 32) | int(i)) ^ int(r)) for u, i, r in zip(users, items, codes, strict=True))
    assert digest_of(users, items, codes) == expected % 2**64
    ones = np.ones(1, np.float32)
    assert digest_of(users[:1], items[:1], ones) == mixed(mixed(3 << 32) ^ 0x3F800000)


def test_order_and_parts_do_not_matter_and_each_number_does():
    random = np.random.default_rng(0)
    users, items = (random.integers(0, 50, 300).astype(np.int32) for _ in range(2))
    ratings = random.standard_normal(300).astype(np.float32)
    whole, order = digest_of(users, items, ratings), random.permutation(300)
    assert digest_of(users[order], items[order], ratings[order]) == whole
    assert total(digest_of(users[part], items[part], ratings[part]) for part in (slice(90), slice(90, None))) == whole
    for place in range(3):
        changed = [users.copy(), items.copy(), ratings.copy()]
        changed[place][17] += 1
        assert digest_of(*changed) != whole
    assert digest_of(items, users, ratings) != whole
