"""Incremental runs: the files that a run reads, and what it can take over from its base run."""

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase

from pyspark.sql import DataFrame

from mfspark.config.sections import PipelineConfig
from mfspark.errors import ConfigError, DataError
from mfspark.storage.runs import JUDGED_FACTORS, PublishedRun, Run
from mfspark.storage.source import stamped_files

logger = logging.getLogger(__name__)

_USES_OF_INPUT = ("input.", "columns.", "split.")
# What is excluded shows in the files.
_OTHER_USES = ("input.max_rejected_share", "input.incremental", "input.exclude", "input.exclude_runs")
_COLUMNS_OF_FACTORS = ("train.rank", "train.biases")


Files = dict[str, str | None]
"""Input files, each with its size and modification time where runs compare them."""


def note_files(config: PipelineConfig, run: Run, source: DataFrame) -> tuple[Files, Files]:
    """The input files of a run, and those of them that its base run does not have; the manifest notes both.

    Cost: where files are compared, a second listing: Spark has the names already, but not size and time.
    """
    files: Files = dict.fromkeys(sorted(source.inputFiles()))
    if config.input.compares_files:
        files = _without_excluded(config, run, stamped_files(run.spark, config.input))
    known = {} if run.base is None else run.base.manifest["input_files"]
    new = {file: stamp for file, stamp in files.items() if file not in known or known[file] != stamp}
    run.manifest["input_files"], run.manifest["new_files"] = files, [f"{file} {new[file]}" for file in new]
    return files, new


def _without_excluded(config: PipelineConfig, run: Run, files: Mapping[str, str]) -> Files:
    """The input files that are not excluded by a pattern or by the run that read them first.

    The manifest notes the files of each excluded run, so that later runs know them when its folder is gone.

    Raises
    ------
    ConfigError    an excluded run is not known
    DataError      every file is excluded
    """
    by_run = run.manifest["excluded_runs"] = {name: _files_of(run, name) for name in config.input.exclude_runs}
    named = {file for found in by_run.values() for file in found}
    kept: Files = {
        file: stamp
        for file, stamp in files.items()
        # A file that was corrected in place is another one than that run read.
        if f"{file} {stamp}" not in named and not any(fnmatchcase(file, pattern) for pattern in config.input.exclude)
    }
    if not kept and files:
        raise DataError(
            f"all {len(files)} input files are excluded, '{next(iter(files))}' for one; correct input.exclude and "
            "input.exclude_runs"
        )
    if len(kept) < len(files):
        logger.info("%d of %d files are excluded", len(files) - len(kept), len(files))
    return kept


def _files_of(run: Run, name: str) -> list[str]:
    """The files that a run was the first to read, each with its stamp."""
    manifest = run.manifest_of(name)
    found: list[str] | None = manifest.get("new_files") if manifest else None
    if found is None and run.base is not None:  # its folder may be gone
        found = run.base.manifest.get("excluded_runs", {}).get(name)
    if found is None:
        raise ConfigError(
            f"input.exclude_runs: no run '{name}' with a list of new files in '{run.output_path}'; name its files with "
            "input.exclude"
        )
    return found


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
