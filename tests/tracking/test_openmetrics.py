"""The file that Prometheus's node exporter reads, parsed by Prometheus's own parser."""

import logging
from types import SimpleNamespace

import pytest

from mfspark.config.sections import InputConfig, OutputConfig, PipelineConfig, TrackConfig
from mfspark.tracking.openmetrics import exported_as_openmetrics
from tests.tracking.test_mlflow import METRICS

parser = pytest.importorskip("prometheus_client.parser", reason="the extra openmetrics is not installed")

FINISHED = "1970-01-01T00:16:30.500000+00:00"
OUTPUT = 'out "a\\b'


@pytest.fixture
def config(tmp_path):
    track = TrackConfig(openmetrics_path=str(tmp_path / "mfspark.prom"))
    return PipelineConfig(InputConfig("ratings"), OutputConfig(OUTPUT), track=track)


def export(config, run=None, error=None):
    """A job's end; the samples of the file by name and the label besides `output`."""
    try:
        with exported_as_openmetrics(config) as exported:
            exported.run = run
            if error:
                raise error
    except KeyError:
        pass
    with open(config.track.openmetrics_path, encoding="utf-8") as file:
        families = list(parser.text_fd_to_metric_families(file))
    samples = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = dict(sample.labels)
        assert labels.pop("output") == OUTPUT
        samples[(sample.name.removeprefix("mfspark_"), *labels.values())] = sample.value
    return samples


def test_published_run_is_told_by_its_numbers(config, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert export(config, SimpleNamespace(manifest={"finished": FINISHED}, metrics=METRICS)) == {
        ("job_success",): 1,
        ("job_end_timestamp_seconds",): 1000,
        ("last_success_timestamp_seconds",): 990.5,
        ("rows_read",): 9,
        ("rows_rejected", "user: null"): 1,
        ("rows_rejected", "rating <is> NaN"): 2,
        ("iterations",): 2,
        ("objective",): 5,
        ("rmse",): 0.8,
        ("holdout", "rmse"): 1.25,
        ("holdout", "ndcg_at_10"): 0.5,
        ("baseline_popularity", "ndcg_at_10"): 0.25,
        ("step_seconds", "ingest"): 1.5,
    }


def test_gates_and_lists_are_told(config):
    gates = [{"rule": rule, "passed": passed} for rule, passed in (("a >= 1", True), ("b >= 1", False), ("c", None))]
    lists = {"full": 5, "short": 2, "fallback": 1, "empty": 0}
    found = export(config, SimpleNamespace(manifest={"gates": gates}, metrics={"lists": lists}))
    assert {key[1:]: value for key, value in found.items() if key[0] == "gate_passed"} == {
        ("a >= 1",): 1, ("b >= 1",): 0, ("c",): 0
    }  # fmt: skip
    assert {key[1]: value for key, value in found.items() if key[0] == "lists"} == lists


def test_job_that_fails_remembers_the_last_success(config, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1000.0)
    first = export(config, error=KeyError())
    assert first == {("job_success",): 0, ("job_end_timestamp_seconds",): 1000}
    export(config, SimpleNamespace(manifest={"finished": FINISHED}, metrics={}))
    monkeypatch.setattr("time.time", lambda: 2000.0)
    failed = export(config, SimpleNamespace(manifest={}, metrics={"seconds": {"ingest": 3}}), KeyError())
    assert failed == {
        ("job_success",): 0,
        ("job_end_timestamp_seconds",): 2000,
        ("last_success_timestamp_seconds",): 990.5,
        ("step_seconds", "ingest"): 3,
    }
    one_step = export(config, SimpleNamespace(manifest={}, metrics={}))
    assert (one_step["job_success",], one_step["last_success_timestamp_seconds",]) == (1, 990.5)


def test_file_that_cannot_be_written_is_a_warning(config, caplog, tmp_path):
    (tmp_path / "mfspark.prom").mkdir()
    with caplog.at_level(logging.WARNING), exported_as_openmetrics(config):
        pass
    assert "mfspark.prom': " in caplog.text


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with exported_as_openmetrics(PipelineConfig(InputConfig("ratings"), OutputConfig(OUTPUT))):
        pass
    assert list(tmp_path.iterdir()) == []
