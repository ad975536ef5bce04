"""Small inputs that several tests share."""

import numpy as np
import pyarrow as pa

from mfspark import ALSModel
from mfspark.training.factor_tables import FactorTable

TOY_RATINGS = [(1, 1, 5.0), (1, 2, 3.0), (2, 1, 4.0), (2, 3, 1.0), (3, 2, 2.0), (3, 3, 5.0)]
"""The observed cells of R = [[5, 3, ?], [4, ?, 1], [?, 2, 5]] as (user, item, rating)."""
TOY_USER_FACTORS = np.array([[1.2, 0.5], [1.0, 0.3], [0.2, 1.1]], np.float32)
TOY_ITEM_FACTORS = np.array([[1.5, 0.4], [0.9, 0.1], [0.1, 1.3]], np.float32)
OBJECTIVES = {
    "explicit": {},
    "biases": {"biases": True, "weightCol": "weight"},
    "implicit": {"implicitPrefs": True, "alpha": 2.0},
    "iALS": {"implicitPrefs": True, "alpha": 0.0, "unobservedWeight": 0.1, "regScaling": 0.7},
    "nonnegative": {"nonnegative": True},
}
"""Settings of ALS by what it minimises."""


def random_ratings(seed: int, n_users: int, n_items: int, n_ratings: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and ratings of distinct pairs: item 0 is very popular, every user and item occurs."""
    random = np.random.default_rng(seed)
    popularity = 1.0 / (1.0 + np.arange(n_items))
    pairs = {(user, user % n_items) for user in range(n_users)}
    pairs |= {(item % n_users, item) for item in range(n_items)}
    while len(pairs) < n_ratings:
        user = random.integers(n_users)
        item = random.choice(n_items, p=popularity / popularity.sum())
        pairs.add((int(user), int(item)))
    users, items = np.array(sorted(pairs), np.int32).T
    ratings = random.integers(1, 11, len(users)).astype(np.float32) / 2
    return np.ascontiguousarray(users), np.ascontiguousarray(items), ratings


def skewed_ratings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and ratings: user 0 rates all 30 items, all 40 users rate item 0.

    Of ten blocks either should have more than two.
    """
    pairs = {(user, 0) for user in range(40)} | {(0, item) for item in range(30)} | {(u, u % 30) for u in range(40)}
    users, items = np.array(sorted(pairs), np.int32).T
    ratings = np.random.default_rng(2).integers(1, 11, len(users)).astype(np.float32) / 2
    return np.ascontiguousarray(users), np.ascontiguousarray(items), ratings


def low_rank_ratings(seed: int, n_users: int, n_items: int, rank: int) -> np.ndarray:
    """A full matrix of exactly this rank."""
    random = np.random.default_rng(seed)
    return random.standard_normal((n_users, rank)) @ random.standard_normal((rank, n_items))


def ratings_table(users, items, ratings, *, user="user", item="item", rating="rating") -> pa.Table:
    """Arrow table of ratings, for `spark.createDataFrame` or a Parquet file."""
    return pa.table({user: pa.array(users), item: pa.array(items), rating: pa.array(ratings)})


def model_of(spark, user_factors: dict, item_factors: dict) -> ALSModel:
    """A model with given factors by int id."""

    def table(factors):
        rows = [(raw_id, [float(value) for value in vector]) for raw_id, vector in factors.items()]
        return FactorTable.of(spark.createDataFrame(rows, "id int, features array<float>"))

    return ALSModel(table(user_factors), table(item_factors), len(next(iter(user_factors.values()))))


def small_model(spark) -> ALSModel:
    """Users 0 and 1, items 3 to 6 in the order in which both like them best."""
    return model_of(spark, {0: [1], 1: [2]}, {3: [4], 4: [3], 5: [2], 6: [1]})
