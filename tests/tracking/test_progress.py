"""Signs of life while Spark works."""

import logging
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mfspark.engine.jobs import named_jobs
from mfspark.tracking import progress
from mfspark.tracking.progress import progress_logged

TIMEOUT_S = 60


class Records(logging.Handler):
    """Keeps the contexts of all records, and makes a file when one fulfils the condition."""

    def __init__(self, condition, path):
        super().__init__()
        self.condition, self.path, self.found, self.lines = condition, path, [], []

    def emit(self, record):
        if not hasattr(record, "context"):
            return
        self.found.append(record.context)
        self.lines.append(record.getMessage())
        if self.condition(record.context):
            self.path.touch()


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_POLL_S", 0.05)
    logger = logging.getLogger("mfspark.tracking.progress")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    added = []

    def start(condition):
        added.append(Records(condition, tmp_path / "go"))
        logger.addHandler(added[0])
        return added[0]

    yield start
    logger.removeHandler(added[0])
    logger.setLevel(level)


def wait_for(path):
    """True when the file is there; False if it does not come."""
    end = time.monotonic() + TIMEOUT_S
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def watches():
    return [thread for thread in threading.enumerate() if thread.name.startswith("progress of")]


@pytest.mark.spark
def test_tasks_of_the_running_stage_are_counted(spark, records):
    """Of five tasks on two cores, three end at once and two wait until the log says so."""
    found = records(lambda context: context["tasks_done"] == 3 and context["seconds_left"])
    path = found.path
    with named_jobs(spark, "a job", group="ingest"), progress_logged(spark, "ingest"):
        seen = spark.sparkContext.range(5, numSlices=5).map(lambda task: task < 3 or wait_for(path)).collect()
    assert seen == [True] * 5
    assert watches() == []
    with_tasks = [context for context in found.found if context["tasks"]]
    assert {(context["step"], context["tasks"]) for context in with_tasks} == {("ingest", 5)}
    done = [context["tasks_done"] for context in with_tasks]
    assert done == sorted(done)
    line = found.lines[[context["tasks_done"] for context in found.found].index(3)]
    assert line.startswith("ingest: 3/5 tasks, ")


@pytest.mark.spark
def test_jobs_of_another_group_do_not_count(spark, records):
    tracker, seen = spark.sparkContext.statusTracker(), []

    def has_run_for_some_records(_):
        stages = map(tracker.getStageInfo, tracker.getActiveStageIds())
        seen.extend(stage for stage in stages if stage is not None and stage.numActiveTasks)
        return len(seen) > 3

    found = records(has_run_for_some_records)
    path = found.path
    with named_jobs(spark, "a job", group="another"), progress_logged(spark, "ingest"):
        assert spark.sparkContext.range(2, numSlices=2).map(lambda _: wait_for(path)).collect() == [True, True]
    assert {context["tasks"] for context in found.found} == {0}
    assert re.fullmatch(r"ingest: \d+ s so far", found.lines[-1])


def test_watch_ends_with_a_step_that_fails():
    class Context:
        def statusTracker(self):
            raise AssertionError("a step of this length is not watched")

    def fail():
        assert [thread.name for thread in watches()] == ["progress of ingest"]
        raise ValueError("of the step")

    with (
        pytest.raises(ValueError, match="of the step"),
        progress_logged(SimpleNamespace(sparkContext=Context()), "ingest"),
    ):
        fail()
    assert watches() == []


def test_errors_of_the_watch_do_not_reach_the_step(records, tmp_path):
    asked = Path(tmp_path / "asked")

    class Context:
        def statusTracker(self):
            asked.touch()
            raise ConnectionError("Java is gone")

    found = records(lambda _: False)
    with progress_logged(SimpleNamespace(sparkContext=Context()), "ingest"):
        assert wait_for(asked)
    assert watches() == []
    assert found.found == []
