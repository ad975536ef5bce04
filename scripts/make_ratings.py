"""Write synthetic ratings of any size and skew as one Parquet file: user_id, item_id int64, rating float32.

Activity of users and popularity of items are log-normal; the defaults have the shape of MovieLens 20M. A rating is
mean + user bias + item bias + low-rank signal + noise, clipped to 0.5 .. 5 in steps of 0.5. The same arguments give
the same file. Users are generated in batches: memory does not grow with the number of ratings.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numba import njit
from numpy.typing import NDArray

_BATCH_RATINGS = 2_000_000
_SIGNAL_RANK = 16
_DRAWS = 30
"""Draws by popularity before a user takes the next free item."""
_LEAST_ACTIVITY = 20 / 144
"""Ratings of the least active user, as a share of the mean."""


@dataclass(frozen=True)
class Shape:
    """Sizes and shape of the ratings."""

    n_users: int
    n_items: int
    n_ratings: int
    user_skew: float
    """σ of the logarithm of the users' activity beyond the least."""
    item_skew: float
    """σ of the logarithm of the items' popularity."""
    seed: int


class Population:
    """Activity of users, popularity of items, biases and signal."""

    def __init__(self, shape: Shape) -> None:
        random = np.random.default_rng([shape.seed, 0])
        self.shape = shape
        self.n_ratings_of_user = activity(random, shape)
        self.cumulative = np.cumsum(popularity(random, shape))
        self.user_bias = random.normal(0, 0.45, shape.n_users).astype(np.float32)
        self.item_bias = random.normal(0, 0.5, shape.n_items).astype(np.float32)
        scale = 0.55**0.5 / _SIGNAL_RANK**0.25
        self.user_signal = random.normal(0, scale, (shape.n_users, _SIGNAL_RANK)).astype(np.float32)
        self.item_signal = random.normal(0, scale, (shape.n_items, _SIGNAL_RANK)).astype(np.float32)


def activity(random: np.random.Generator, shape: Shape) -> NDArray[np.int64]:
    """Number of ratings of each user; they sum to shape.n_ratings."""
    mean = shape.n_ratings / shape.n_users
    beyond = np.exp(random.normal(0, shape.user_skew, shape.n_users))
    least = max(1.0, _LEAST_ACTIVITY * mean)
    # Items of a user are distinct, so no user rates much more than a third of them.
    most = shape.n_items / 3
    wanted = np.minimum(least + beyond * (mean - least) / beyond.mean(), most)
    counts = np.floor(wanted * shape.n_ratings / wanted.sum()).astype(np.int64)
    missing = shape.n_ratings - int(counts.sum())
    counts += missing // shape.n_users
    counts[random.permutation(shape.n_users)[: missing % shape.n_users]] += 1
    return counts


def popularity(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Share of the ratings of each item; no more than about half of the users rate the same item."""
    shares = np.exp(random.normal(0, shape.item_skew, shape.n_items))
    for _ in range(20):
        shares = np.minimum(shares / shares.sum(), 0.5 * shape.n_users / shape.n_ratings)
    return shares / shares.sum()


def batches(population: Population) -> Iterator[pa.RecordBatch]:
    """Ratings of one range of users after another."""
    shape = population.shape
    ends = np.cumsum(population.n_ratings_of_user)
    first_user = 0
    while first_user < shape.n_users:
        done = ends[first_user - 1] if first_user else 0
        last_user = max(first_user + 1, int(np.searchsorted(ends, done + _BATCH_RATINGS)))
        last_user = min(last_user, shape.n_users)
        random = np.random.default_rng([shape.seed, 1, first_user])
        counts = population.n_ratings_of_user[first_user:last_user]
        items = choose_items(random.integers(2**32), first_user, counts, population.cumulative)
        users = np.repeat(np.arange(first_user, last_user), counts)
        ratings = rate(random, population, users, items)
        yield pa.RecordBatch.from_arrays(
            [pa.array(users), pa.array(items), pa.array(ratings)], names=["user_id", "item_id", "rating"]
        )
        first_user = last_user


@njit(cache=True)
def choose_items(seed, first_user, counts, cumulative):  # type: ignore[no-untyped-def]
    """Distinct items for each user, by popularity; int64[counts.sum()], grouped by user.

    User i also rates item i, if it exists, so that every item has a rating.
    """
    np.random.seed(seed)  # noqa: NPY002  # numba's own generator
    n_items = cumulative.size
    last_taker = np.full(n_items, -1, np.int64)
    items = np.empty(counts.sum(), np.int64)
    position = 0
    for user in range(counts.size):
        for number in range(counts[user]):
            item = first_user + user
            for _ in range(_DRAWS if number > 0 or item >= n_items else 0):
                item = min(np.searchsorted(cumulative, np.random.random(), side="right"), n_items - 1)  # noqa: NPY002
                if last_taker[item] != user:
                    break
            while last_taker[item] == user:  # the popular items are used up
                item = (item + 1) % n_items
            last_taker[item] = user
            items[position] = item
            position += 1
    return items


def rate(
    random: np.random.Generator, population: Population, users: NDArray[np.int64], items: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Ratings of the given pairs."""
    signal = np.einsum("pf,pf->p", population.user_signal[users], population.item_signal[items])
    noise = random.normal(0, 0.7, len(users)).astype(np.float32)
    ratings = 3.5 + population.user_bias[users] + population.item_bias[items] + signal + noise
    return (np.clip(np.rint(2 * ratings), 1, 10) / 2).astype(np.float32)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="Parquet file to write")
    parser.add_argument("--users", type=int, default=138_493)
    parser.add_argument("--items", type=int, default=26_744)
    parser.add_argument("--ratings", type=int, default=20_000_263)
    parser.add_argument("--user-skew", type=float, default=1.38)
    parser.add_argument("--item-skew", type=float, default=2.8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 2 * options.users <= options.ratings <= options.users * options.items / 6:
        parser.error("the number of ratings must be between 2 a user and a sixth of all pairs")
    shape = Shape(options.users, options.items, options.ratings, options.user_skew, options.item_skew, options.seed)
    options.target.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema({"user_id": pa.int64(), "item_id": pa.int64(), "rating": pa.float32()})
    with pyarrow.parquet.ParquetWriter(options.target, schema) as writer:
        for batch in batches(Population(shape)):
            writer.write_batch(batch)
    print(f"{shape.n_ratings} ratings in {options.target}")


if __name__ == "__main__":
    main()
