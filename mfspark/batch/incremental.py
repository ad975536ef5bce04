"""Incremental runs: check what a run can take over from its base run."""

import logging
from collections.abc import Mapping

from mfspark.config.sections import PipelineConfig
from mfspark.storage.runs import JUDGED_FACTORS, PublishedRun

logger = logging.getLogger(__name__)

_USES_OF_INPUT = ("input.", "columns.", "split.")
_OTHER_USES = ("input.max_rejected_share", "input.incremental")
_COLUMNS_OF_FACTORS = ("train.rank", "train.biases")


def has_what_was_read(config: PipelineConfig, base: PublishedRun, files: Mapping[str, str | None]) -> bool:
    """Whether this run can take over the ratings of an earlier run: its files and input settings are unchanged.

    files : the input files now, each with its size and modification time
    """
    changes = config.changes_since(base.manifest["config"])
    uses = [key for key in changes if key.startswith(_USES_OF_INPUT) and key not in _OTHER_USES]
    gone = [file for file, stamp in base.manifest["input_files"].items() if files.get(file) != stamp]
    if uses:
        reason = f"settings differ: {', '.join(uses)}"
    elif not base.has_table("ratings"):
        reason = "it was not incremental and kept no ratings"
    elif gone:
        reason = f"{len(gone)} of its files changed or are gone, for example '{gone[0]}'"
    elif config.input.duplicates == "mean":
        reason = "input.duplicates = 'mean' needs all ratings of a pair"
    else:
        return True
    logger.info("reading every file, not only those that are new since run %s: %s", base.name, reason)
    return False


def has_same_factors(config: PipelineConfig, base: PublishedRun) -> bool:
    """Whether training can start from the factors by which an earlier run was judged."""
    columns = [key for key in config.changes_since(base.manifest["config"]) if key in _COLUMNS_OF_FACTORS]
    if columns:
        reason = f"settings differ: {', '.join(columns)}"
    elif "refit" in base.metrics and not all(map(base.has_table, JUDGED_FACTORS)):
        # The published ones know the holdout: judged by it, they would look better than they are.
        reason = "it was not incremental, and its factors know all ratings"
    else:
        return True
    logger.info("training starts from random factors, not from run %s: %s", base.name, reason)
    return False
