"""Writes an OpenMetrics file about the last job of an output, for Prometheus's node exporter."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mfspark.config.sections import PipelineConfig
from mfspark.tracking.tracked import TrackedRun

logger = logging.getLogger(__name__)

_LAST_SUCCESS = "mfspark_last_success_timestamp_seconds"


class Exported:
    """Holds the run that the file describes; None if the job ends before it opens a run."""

    run: TrackedRun | None = None


@contextmanager
def exported_as_openmetrics(config: PipelineConfig) -> Iterator[Exported]:
    """Replace the file atomically when the job ends, also if it fails. Runs on the driver.

    All samples have the label `output`, so one node can have the files of several outputs. If the file cannot be
    written, a warning is logged.
    """
    exported, path = Exported(), config.track.openmetrics_path
    if path is None:
        yield exported
        return
    is_success = False
    try:
        yield exported
        is_success = True
    finally:
        try:
            _write(Path(path), config.output.path, exported.run, is_success)
        except Exception as error:  # a job must not fail because of its metrics
            logger.warning("could not write '%s': %s", path, error)
            logger.debug("OpenMetrics failed", exc_info=True)


def _write(path: Path, output: str, run: TrackedRun | None, is_success: bool) -> None:
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()

    def add(name: str, meaning: str, samples: dict[Any, Any], label: str | None = None) -> None:
        known = {key: value for key, value in samples.items() if isinstance(value, int | float)}
        if known:
            names = ["output"] if label is None else ["output", label]
            gauge = Gauge(name, meaning, names, registry=registry)
            for key, value in known.items():
                gauge.labels(output, *([] if label is None else [key])).set(value)

    def add_one(name: str, meaning: str, value: float | None) -> None:
        add(name, meaning, {None: value})

    add_one("mfspark_job_success", "1 if the last job succeeded, else 0", float(is_success))
    add_one("mfspark_job_end_timestamp_seconds", "When the last job ended", time.time())
    finished = run.manifest.get("finished") if run and is_success else None
    published = datetime.fromisoformat(finished).timestamp() if finished else _last_success(path, output)
    add_one(_LAST_SUCCESS, "When a run was last published, or found nothing new", published)
    metrics = run.metrics if run else {}
    rows = metrics.get("rows", {})
    add_one("mfspark_rows_read", "Rows of the input", rows.get("read"))
    add("mfspark_rows_rejected", "Rows that could not be used", rows.get("rejected", {}), "reason")
    iterations = metrics.get("training", {}).get("iterations", [])
    last: dict[str, Any] = iterations[-1] if iterations else {}
    add_one("mfspark_iterations", "Iterations of the training", last.get("iteration"))
    add_one("mfspark_objective", "Objective after the last iteration", last.get("objective"))
    add_one("mfspark_rmse", "Root mean squared error on the training ratings", last.get("rmse"))
    add_one("mfspark_validation_rmse", "Root mean squared error on the validation ratings", last.get("validation_rmse"))
    add("mfspark_holdout", "Metrics on the holdout", metrics.get("holdout", {}), "metric")
    for name, of_baseline in metrics.get("baselines", {}).items():
        add(f"mfspark_baseline_{name}", f"Metrics of the baseline {name} on the holdout", of_baseline, "metric")
    add("mfspark_lists", "Users by kind of list", metrics.get("lists", {}), "kind")
    gates = {gate["rule"]: int(bool(gate["passed"])) for gate in run.manifest.get("gates", [])} if run else {}
    add("mfspark_gate_passed", "1 if the run meets the rule, else 0", gates, "rule")
    add("mfspark_step_seconds", "Wall time of a step", metrics.get("seconds", {}), "step")
    write_to_textfile(str(path), registry)


def _last_success(path: Path, output: str) -> float | None:
    """Read the time of the last success from the existing file, because a failed job must keep it."""
    from prometheus_client.parser import text_string_to_metric_families

    if not path.exists():
        return None
    for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
        for sample in family.samples:
            if sample.name == _LAST_SUCCESS and sample.labels["output"] == output:
                return float(sample.value)
    return None
