"""Runs in MLflow, in a store of files."""

import sys
from types import SimpleNamespace

import pytest

from mfspark.config.sections import TrackConfig
from mfspark.errors import ConfigError
from mfspark.tracking.mlflow import logged_to_mlflow
from mfspark.tracking.tracked import require_trackable

pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

METRICS = {
    "rows": {"read": 9, "rejected": {"user: null": 1, "rating <is> NaN": 2}, "train": 6},
    "training": {
        "users": 3,
        "iterations": [
            {"iteration": 1, "objective": 8.0, "squared_error": 6.0, "penalty": 2.0, "rmse": 1.0,
             "validation_rmse": None, "seconds": 0.5},
            {"iteration": 2, "objective": 5.0, "squared_error": 4.0, "penalty": 1.0, "rmse": 0.8,
             "validation_rmse": None, "seconds": 0.25},
        ],
        "stop_reason": "max_iter",
    },
    "holdout": {"rmse": 1.25, "mae": None, "ndcg_at_10": 0.5},
    "baselines": {"popularity": {"ndcg_at_10": 0.25}},
    "seconds": {"ingest": 1.5},
}  # fmt: skip


@pytest.fixture
def run():
    """A run that ends well, with the files of one."""
    files = {"manifest.json": "{}", "report.html": "<p>λ</p>"}
    manifest = {
        "status": "running",
        "config_hash": "abc",
        "config": {"train": {"rank": 3, "bias_reg_param": None}, "input": {"path": "p" * 400}},
        "versions": {"spark": "4.3.0"},
    }
    return SimpleNamespace(
        run_id="r1", folder="hdfs://runs/r1", manifest=manifest, metrics=METRICS, read_text=files.get
    )


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A tracking store, and what is in its experiment."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = TrackConfig(mlflow_uri=f"file://{tmp_path}/store", mlflow_experiment="films")
    client = MlflowClient(config.mlflow_uri)

    def logged():
        experiment = client.get_experiment_by_name("films")
        return client.search_runs([experiment.experiment_id]) if experiment else []

    return SimpleNamespace(config=config, client=client, logged=logged, folder=tmp_path / "store")


def test_published_run_is_there_with_all_it_came_to(run, store):
    with logged_to_mlflow(store.config, run):
        assert store.logged() == []
        run.manifest["status"] = "complete"
    (logged,) = store.logged()
    assert (logged.info.run_name, logged.info.status) == ("r1", "FINISHED")
    assert logged.data.params == {"train.rank": "3", "input.path": "p" * 400}
    tags = {key: value for key, value in logged.data.tags.items() if key.startswith("mfspark.")}
    assert tags == {
        "mfspark.folder": "hdfs://runs/r1", "mfspark.status": "complete", "mfspark.config_hash": "abc",
        "mfspark.version.spark": "4.3.0",
    }  # fmt: skip
    last = {"objective": 5.0, "squared_error": 4.0, "penalty": 1.0, "rmse": 0.8, "seconds": 0.25}
    assert logged.data.metrics == {f"iteration.{key}": value for key, value in last.items()} | {
        "rows.read": 9, "rows.rejected": 3, "rows.train": 6, "training.users": 3, "holdout.rmse": 1.25,
        "holdout.ndcg_at_10": 0.5, "baselines.popularity.ndcg_at_10": 0.25, "seconds.ingest": 1.5,
    }  # fmt: skip
    objective = store.client.get_metric_history(logged.info.run_id, "iteration.objective")
    assert [(point.step, point.value) for point in objective] == [(1, 8.0), (2, 5.0)]
    found = {path.name: path.read_text(encoding="utf-8") for path in store.folder.rglob("artifacts/*")}
    assert found == {"manifest.json": "{}", "report.html": "<p>λ</p>"}


def test_failed_run_is_there_as_failed_and_its_error_goes_on(run, store):

    def fail():
        with logged_to_mlflow(store.config, run):
            run.manifest |= {"status": "failed", "error": {"type": "ValueError", "message": "why"}}
            raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        fail()
    (logged,) = store.logged()
    assert (logged.info.status, logged.data.tags["mfspark.error"]) == ("FAILED", "ValueError: why")


@pytest.mark.parametrize("status", ["running", "complete"])
def test_job_that_does_not_end_the_run_logs_nothing(run, store, status):
    run.manifest["status"] = status
    with logged_to_mlflow(store.config, run):
        pass
    assert store.logged() == []


def test_server_that_is_down_is_a_warning(run, store, caplog):  # noqa: ARG001  # for its environment
    with logged_to_mlflow(TrackConfig(mlflow_uri="http://127.0.0.1:9"), run):
        run.manifest["status"] = "complete"
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.getMessage().startswith("could not log run r1 to MLflow: API request to http://127.0.0.1:9/")


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        ("mlflow", {"mlflow_uri": "x"}, r"track.mlflow_uri needs .* mlflow, .* pip install 'mfspark\[mlflow\]'"),
        (
            "prometheus_client",
            {"openmetrics_path": "x.prom"},
            r"openmetrics_path needs .* prometheus_client, .* pip install 'mfspark\[openmetrics\]'",
        ),
    ],
)
def test_library_that_is_not_installed_is_named_by_its_extra(monkeypatch, module, settings, message):
    require_trackable(TrackConfig(**settings))
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not hasattr(finder, "MAPPING")])
    with pytest.raises(ConfigError, match=message):
        require_trackable(TrackConfig(**settings))
    require_trackable(TrackConfig())
