"""Logs the configuration, the metrics and the report of a run to MLflow."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mfspark.config.sections import TrackConfig
from mfspark.tracking.tracked import TrackedRun

if TYPE_CHECKING:
    from mlflow.entities import Metric

logger = logging.getLogger(__name__)

ARTIFACTS = ("report.html", "manifest.json", "metrics.json")
"""Files of a run that are copied to MLflow. The tables may be large, so MLflow gets only the path of their folder."""

_BY_ITERATION = ("objective", "squared_error", "penalty", "rmse", "validation_rmse", "seconds")
# MLflow's limit per request.
_PARAMS_A_BATCH, _METRICS_A_BATCH = 100, 1000


@contextmanager
def logged_to_mlflow(config: TrackConfig, run: TrackedRun) -> Iterator[None]:
    """Log the run as one MLflow run when it is published or a job of it fails.

    A job that does one step of a run logs nothing, unless it fails or publishes the run. If the server is down or
    refuses the data, a warning is logged and the job continues. Runs on the driver.
    """
    if config.mlflow_uri is None or run.manifest["status"] == "complete":  # no tracking, or nothing left to do
        yield
        return
    try:
        yield
    except BaseException:
        _log_or_warn(config, run, "FAILED")
        raise
    if run.manifest["status"] == "complete":
        _log_or_warn(config, run, "FINISHED")


def params_of(config: dict[str, Any]) -> dict[str, str]:
    """The settings of a run as MLflow parameters named 'section.key', without settings that are not set."""
    settings = {f"{section}.{key}": value for section, keys in config.items() for key, value in keys.items()}
    return {key: str(value) for key, value in settings.items() if value is not None}


def metrics_of(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers in metrics.json, without those of each iteration; nested names are joined with dots."""
    found: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            found |= {f"{key}.{name}": number for name, number in metrics_of(value).items()}
        elif isinstance(value, int | float):
            found[key] = float(value)
    return found


def _log_or_warn(config: TrackConfig, run: TrackedRun, status: str) -> None:
    try:
        _log(config, run, status)
    except Exception as error:  # any error of the library, the server or the network
        logger.warning(
            "could not log run %s to MLflow: %s", run.run_id, next(iter(str(error).splitlines()), "no reason given")
        )
        logger.debug("MLflow failed", exc_info=True)


def _log(config: TrackConfig, run: TrackedRun, status: str) -> None:
    # By default MLflow retries for several minutes if the server is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client = MlflowClient(tracking_uri=config.mlflow_uri)
    experiment = client.get_experiment_by_name(config.mlflow_experiment)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(config.mlflow_experiment)
    tags = {"mfspark.folder": run.folder, "mfspark.status": run.manifest["status"]}
    tags["mfspark.config_hash"] = run.manifest["config_hash"]
    tags |= {f"mfspark.version.{name}": version for name, version in run.manifest["versions"].items()}
    if "error" in run.manifest:
        tags["mfspark.error"] = f"{run.manifest['error']['type']}: {run.manifest['error']['message']}"
    logged = client.create_run(experiment_id, run_name=run.run_id, tags=tags).info
    params = [Param(key, value) for key, value in params_of(run.manifest["config"]).items()]
    for first in range(0, len(params), _PARAMS_A_BATCH):
        client.log_batch(logged.run_id, params=params[first : first + _PARAMS_A_BATCH])
    metrics = _mlflow_metrics(run.metrics, logged.start_time)
    for first in range(0, len(metrics), _METRICS_A_BATCH):
        client.log_batch(logged.run_id, metrics=metrics[first : first + _METRICS_A_BATCH])
    for name in ARTIFACTS:
        text = run.read_text(name)
        if text is not None:
            client.log_text(logged.run_id, text, name)
    client.set_terminated(logged.run_id, status)
    logger.info("logged run %s to MLflow: experiment %s, run %s", run.run_id, config.mlflow_experiment, logged.run_id)


def _mlflow_metrics(metrics: dict[str, Any], timestamp_ms: int) -> "list[Metric]":
    from mlflow.entities import Metric

    once = {key: value for key, value in metrics.items() if key != "rows"}
    # Reasons of rejection can have characters that MLflow does not allow in names of metrics.
    rows = dict(metrics.get("rows", {}))
    rows["rejected"] = sum(rows.get("rejected", {}).values())
    numbers = metrics_of({**once, "rows": rows})
    found = [Metric(key, value, timestamp_ms, 0) for key, value in numbers.items()]
    for record in metrics.get("training", {}).get("iterations", []):
        found += [
            Metric(f"iteration.{key}", record[key], timestamp_ms, record["iteration"])
            for key in _BY_ITERATION
            if record[key] is not None
        ]
    return found
