"""Readers get an earlier run again, and the later ones are out of the way."""

import json

import pytest

from mfspark.errors import OutputError
from mfspark.storage.lock import lock_output
from mfspark.storage.rollback import roll_back
from mfspark.storage.runs import open_run
from tests.storage.test_publishing import config_of, job

pytestmark = pytest.mark.spark


@pytest.fixture
def output(spark, tmp_path):
    for name in ("c", "b", "a"):
        job(spark, tmp_path, name, "new", name)
    return tmp_path


@pytest.fixture
def lock(spark, output):
    with lock_output(spark, str(output), "a job") as lock:
        yield lock


def statuses(output):
    return {
        path.parent.name: json.loads(path.read_text())["status"] for path in (output / "runs").glob("*/manifest.json")
    }


def test_by_default_it_is_the_run_that_was_published_before(spark, output, lock):
    done = roll_back(spark, lock, str(output), None)
    assert (output / "CURRENT").read_text() == "b\n"
    assert (done.before, done.now.name, done.withdrawn) == ("a", "b", ["a"])
    assert statuses(output) == {"c": "complete", "b": "complete", "a": "withdrawn"}
    done = roll_back(spark, lock, str(output), None)
    assert (done.before, done.now.name, done.withdrawn) == ("b", "c", ["b"])
    with pytest.raises(OutputError, match="has no published run before the current one; found c, b, a"):
        roll_back(spark, lock, str(output), None)


def test_a_named_run_and_back_again(spark, output, lock):
    assert roll_back(spark, lock, str(output), "c").withdrawn == ["b", "a"]
    # Cut off between the switch of CURRENT and the marks, it can be asked for again.
    assert roll_back(spark, lock, str(output), "c").withdrawn == []
    assert roll_back(spark, lock, str(output), "a").withdrawn == []
    assert (output / "CURRENT").read_text() == "a\n"
    assert statuses(output) == {"c": "complete", "b": "withdrawn", "a": "complete"}


def test_what_was_never_published_is_no_aim(spark, output, lock):
    open_run(spark, config_of(output), "unfinished", "new", lock)
    for name in ("unfinished", "unknown"):
        with pytest.raises(OutputError, match=f"has no published run '{name}'; found c, b, a"):
            roll_back(spark, lock, str(output), name)
    assert (output / "CURRENT").read_text() == "a\n"


@pytest.mark.parametrize("mode", ["new", "resume", "continue", "repeat"])
def test_a_withdrawn_run_is_not_published_by_a_second_attempt(spark, output, lock, mode):
    roll_back(spark, lock, str(output), "b")
    with pytest.raises(OutputError, match=r"already published|was withdrawn by a rollback; publish it again with"):
        open_run(spark, config_of(output), "a", mode, lock)


def test_a_withdrawn_run_can_be_repeated(spark, output, lock):
    roll_back(spark, lock, str(output), "b")
    run = open_run(spark, config_of(output, keep_runs=2), "a", "overwrite", lock)
    assert run.name == "a@2"
    run.publish()
    assert (output / "CURRENT").read_text() == "a@2\n"
    assert statuses(output) == {"b": "complete", "a@2": "complete"}
