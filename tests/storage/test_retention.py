"""Which runs stay, whatever became of them."""

import json

import pytest

from mfspark.engine.files import FileStore
from mfspark.storage.retention import prune_runs

pytestmark = pytest.mark.spark

# By name: status, start and end.
RUNS = {
    "a": ("complete", "01T01", "01T02"),
    "held-1": ("held", "02T01", "02T02"),
    "b": ("complete", "03T01", "03T02"),
    "failed-1": ("failed", "04T01", None),
    "withdrawn": ("withdrawn", "05T01", "05T02"),
    "killed-1": ("running", "06T01", None),
    "unchanged-1": ("unchanged", "07T01", "07T02"),
    "c": ("complete", "08T01", "08T02"),
    "held-2": ("held", "09T01", "09T02"),
    "failed-2": ("failed", "10T01", None),
    "interrupted": ("interrupted", "11T01", None),
    "killed-2": ("running", "12T01", None),
    "empty": None,  # a job ended before its first write
}


@pytest.fixture
def output(tmp_path):
    for name, end in RUNS.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        if end is not None:
            manifest = dict(zip(("status", "started", "finished"), end, strict=True))
            (tmp_path / "runs" / name / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "CURRENT").write_text("c\n")
    return tmp_path


def pruned(spark, output, keep_runs, *busy):
    prune_runs(FileStore(spark, str(output)), str(output), keep_runs, busy)
    return {path.name for path in (output / "runs").iterdir()}


def test_without_a_limit_all_runs_stay_but_not_what_a_removal_has_left(spark, output):
    (output / "runs/.w.1234/table").mkdir(parents=True)
    assert pruned(spark, output, None) == set(RUNS)


@pytest.mark.parametrize(
    ("keep_runs", "expected"),
    [
        (5, {"a", "b", "c", "held-2", "failed-2", "interrupted", "killed-2"}),
        (2, {"b", "c", "interrupted", "killed-2"}),
        (1, {"c", "killed-2"}),
    ],
)
def test_runs_that_were_not_published_stay_until_a_later_one_is_and_are_as_few(spark, output, keep_runs, expected):
    assert pruned(spark, output, keep_runs) == expected


def test_neither_current_nor_what_a_job_works_on_is_removed(spark, output):
    (output / "CURRENT").write_text("a\n")
    assert pruned(spark, output, 1, "held-1", "b") == {"a", "b", "held-1", "c", "killed-2"}


def test_before_the_first_publication_there_are_only_other_runs(spark, output):
    (output / "CURRENT").unlink()
    for name, end in RUNS.items():
        if end is not None and end[0] == "complete":
            (output / "runs" / name / "manifest.json").write_text(json.dumps({"status": "held", "started": end[1]}))
    assert pruned(spark, output, 3, "empty") == {"empty", "failed-2", "interrupted", "killed-2"}
