"""What the ratings of a training are known by, so that it goes on with no others."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from mfspark.blocks.index import IdIndex, RatingsIndex
from mfspark.blocks.types import BlockedRatings
from mfspark.training.loop import KnownFactors

_IDS_IN_BATCH = 1 << 20


def fingerprint(index: RatingsIndex, blocked: BlockedRatings, known: KnownFactors | None) -> dict[str, Any]:
    """Counts, the mean rating and digests, as JSON has them.

    Ratings that differ only in values of the same mean, or in which user gave them to which item, are not told apart:
    that would take another pass over all ratings. Nor are the ids of a wide side, which are not on the driver.

    Cost: a pass over the ids. Runs on the driver.
    """
    found: dict[str, Any] = {
        "users": blocked.users.ranges.n_rows,
        "items": blocked.items.ranges.n_rows,
        "ratings": blocked.n_ratings,
        # Its last digits depend on the blocks.
        "mean rating": float(np.float32(blocked.mean_rating)),
        "initial model": known and hashlib.sha256(known.users.tobytes() + known.items.tobytes()).hexdigest(),
    }
    for name, side in (("user", index.users), ("item", index.items)):
        if side is not None:
            found[f"{name} ids and counts"] = _digest_ids(side)
    return found


def _digest_ids(side: IdIndex) -> str:
    digest = hashlib.sha256(str(side.ids.type).encode())
    for batch in pa.table({"id": side.ids, "n_ratings": side.n_ratings}).to_batches(max_chunksize=_IDS_IN_BATCH):
        digest.update(batch.serialize())
    return digest.hexdigest()
