"""Fingerprint of the ratings of a training: a checkpoint resumes only with the same ratings."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.index import IdIndex
from mfspark.training.loop import InitialFactors

_IDS_IN_BATCH = 1 << 20


def fingerprint(ratings: BlockedRatings, initial: InitialFactors | None) -> dict[str, Any]:
    """Counts, the mean rating and digests; JSON values.

    It does not detect ratings that differ only in values with the same mean, or in the pairing of users and items: that
    would take another pass over all ratings. It does not cover the ids and the initial factors of a wide side, which
    are not on the driver.

    Cost: a pass over the ids. Runs on the driver.
    """
    found: dict[str, Any] = {
        "users": ratings.users.ranges.n_rows,
        "items": ratings.items.ranges.n_rows,
        "ratings": ratings.n_ratings,
        # Its last digits depend on the blocks.
        "mean rating": float(np.float32(ratings.mean_rating)),
        "initial model": initial and _digest_factors(initial),
    }
    for name, side in (("user", ratings.users), ("item", ratings.items)):
        if isinstance(side.ids, IdIndex):
            found[f"{name} ids and counts"] = _digest_ids(side.ids)
    return found


def _digest_factors(initial: InitialFactors) -> str:
    digest = hashlib.sha256()
    for factors in (initial.users, initial.items):
        if isinstance(factors, np.ndarray):
            digest.update(factors.tobytes())
    return digest.hexdigest()


def _digest_ids(side: IdIndex) -> str:
    digest = hashlib.sha256(str(side.ids.type).encode())
    for batch in pa.table({"id": side.ids, "n_ratings": side.n_ratings}).to_batches(max_chunksize=_IDS_IN_BATCH):
        digest.update(batch.serialize())
    return digest.hexdigest()
