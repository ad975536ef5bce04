"""Fingerprint of the ratings of a training: a checkpoint goes on with the same ratings only."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.index import IdIndex
from mfspark.training.loop import InitialFactors

_IDS_IN_BATCH = 1 << 20


def fingerprint(ratings: BlockedRatings, initial: InitialFactors | None) -> dict[str, Any]:
    """Counts, the mean rating and digests, as JSON has them.

    Ratings that differ only in values of the same mean, or in which user gave them to which item, are not told apart:
    that would take another pass over all ratings. Nor are the ids of a wide side, which are not on the driver.

    Cost: a pass over the ids. Runs on the driver.
    """
    found: dict[str, Any] = {
        "users": ratings.users.ranges.n_rows,
        "items": ratings.items.ranges.n_rows,
        "ratings": ratings.n_ratings,
        # Its last digits depend on the blocks.
        "mean rating": float(np.float32(ratings.mean_rating)),
        "initial model": initial and hashlib.sha256(initial.users.tobytes() + initial.items.tobytes()).hexdigest(),
    }
    for name, side in (("user", ratings.users), ("item", ratings.items)):
        if isinstance(side.ids, IdIndex):
            found[f"{name} ids and counts"] = _digest_ids(side.ids)
    return found


def _digest_ids(side: IdIndex) -> str:
    digest = hashlib.sha256(str(side.ids.type).encode())
    for batch in pa.table({"id": side.ids, "n_ratings": side.n_ratings}).to_batches(max_chunksize=_IDS_IN_BATCH):
        digest.update(batch.serialize())
    return digest.hexdigest()
