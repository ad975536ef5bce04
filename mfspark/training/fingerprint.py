"""Fingerprint of the ratings of a training: a checkpoint resumes only with the same ratings."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.index import IdIndex
from mfspark.blocks.records import OTHER
from mfspark.training.exchange import WideFactors
from mfspark.training.loop import InitialFactors

_IDS_IN_BATCH = 1 << 20


def fingerprint(ratings: BlockedRatings, initial: InitialFactors | None) -> dict[str, Any]:
    """Counts, the mean rating and digests; JSON values.

    The digest of the ratings knows users, items and (if there are at most 256) values by their places among all
    distinct ones. The ids and the initial factors of a wide side, which are not on the driver, are not covered.

    Cost: a pass over the ids. Runs on the driver.
    """
    found: dict[str, Any] = {
        "users": ratings.users.ranges.n_rows,
        "items": ratings.items.ranges.n_rows,
        "ratings": ratings.n_ratings,
        # Its last digits depend on the blocks.
        "mean rating": float(np.float32(ratings.mean_rating)),
        "ratings digest": ratings.digest,
    }
    for side in OTHER:
        factors = None if initial is None else initial.of(side)
        if not isinstance(factors, WideFactors):
            found[f"initial {side}s"] = None if factors is None else hashlib.sha256(factors.tobytes()).hexdigest()
        ids = ratings.of(side).ids
        if isinstance(ids, IdIndex):
            found[f"{side} ids and counts"] = _digest_ids(ids)
    return found


def _digest_ids(side: IdIndex) -> str:
    digest = hashlib.sha256(str(side.ids.type).encode())
    for batch in pa.table({"id": side.ids, "n_ratings": side.n_ratings}).to_batches(max_chunksize=_IDS_IN_BATCH):
        digest.update(batch.serialize())
    return digest.hexdigest()
