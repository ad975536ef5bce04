"""The lock of an output: one holder, seen by its process and its heartbeat, taken over when it is gone."""

import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from mfspark.engine.files import FileStore
from mfspark.errors import OutputError
from mfspark.storage import lock as lock_module
from mfspark.storage.lock import OutputLock, lock_output
from tests.conftest import PROJECT
from tests.storage.race import only_holder

pytestmark = pytest.mark.spark

SLEEPER = """
import json, sys, time
from mfspark.storage.lock import _describe_process
print(json.dumps({**_describe_process(), "run_id": "other", "nonce": "n"}), flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_process():
    """A process that lives, and what its lock would say."""
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def make_lock(spark, tmp_path):
    """The lock of another job on the same output, not acquired yet."""
    return lambda run_id="r": OutputLock(FileStore(spark, str(tmp_path)), str(tmp_path), run_id)


def beats(number):
    """Ends a heart after so many beats, without a pause between them."""
    waits = iter([False] * number + [True])
    return SimpleNamespace(wait=lambda _: next(waits))


def leave_lock(tmp_path, age_s=0.0, **content):
    path = tmp_path / ".lock-1"
    path.write_text(json.dumps(content) if content else "")
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))
    return path.read_bytes()


def is_taken_by(lock, tmp_path):
    lock.acquire()
    lock.require_held()
    lock.release()
    return os.listdir(tmp_path) == []


def assert_refused(lock, tmp_path, message="'.*' is locked by"):
    before = (tmp_path / ".lock-1").read_bytes()
    with pytest.raises(OutputError, match=message):
        lock.acquire()
    assert os.listdir(tmp_path) == [".lock-1"]
    assert (tmp_path / ".lock-1").read_bytes() == before


def test_lock_says_who_holds_it_and_goes_with_its_job(spark, tmp_path):
    with lock_output(spark, f"{tmp_path}/new/", "r"):
        content = json.loads((tmp_path / "new/.lock-1").read_text())
        assert (content["run_id"], content["pid"]) == ("r", os.getpid())
        assert content.keys() >= {"host", "started", "nonce"}
    assert os.listdir(tmp_path / "new") == []
    with pytest.raises(ValueError, match="the job fails"), lock_output(spark, str(tmp_path / "new"), "r"):
        raise ValueError("the job fails")
    assert os.listdir(tmp_path / "new") == []


def test_second_job_is_refused_with_the_name_of_the_holder_and_the_remedy(make_lock, tmp_path, other_process):
    _, holder = other_process
    leave_lock(tmp_path, **holder)
    message = (
        rf"'{tmp_path}' is locked by run 'other' \(host {holder['host']}, pid {holder['pid']}, since "
        rf"{holder['started'].replace('+', '.')}\); wait for that job to end, or stop it"
    )
    assert_refused(make_lock(), tmp_path, message)


def test_lock_of_a_job_that_was_killed_is_taken_over_at_once(make_lock, tmp_path, other_process):
    process, holder = other_process
    leave_lock(tmp_path, **holder)
    assert_refused(make_lock(), tmp_path)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but its parent has not asked for its end
    assert is_taken_by(make_lock(), tmp_path)
    process.wait()
    leave_lock(tmp_path, **holder)
    assert is_taken_by(make_lock(), tmp_path)


def test_lock_of_a_process_whose_number_another_has_is_taken_over(make_lock, tmp_path, other_process):
    _, holder = other_process
    leave_lock(tmp_path, **{**holder, "process_started": "1"})
    assert is_taken_by(make_lock(), tmp_path)


@pytest.mark.parametrize("holder", ["unreadable", "elsewhere", "alive"])
def test_without_a_process_to_look_at_the_heartbeat_decides(make_lock, tmp_path, other_process, holder):
    content = {
        "unreadable": {},  # created just now, not written yet
        "elsewhere": {**other_process[1], "machine": "another machine", "pid": 2**22 + 1},
        "alive": other_process[1],  # but stuck
    }[holder]
    leave_lock(tmp_path, age_s=100, **content)
    assert_refused(make_lock(), tmp_path)
    leave_lock(tmp_path, age_s=140, **content)
    assert is_taken_by(make_lock(), tmp_path)


def test_heartbeat_keeps_the_lock_young_until_the_job_ends(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    beaten, replace_text = threading.Event(), FileStore.replace_text

    def replace(files, path, text):
        replace_text(files, path, text)
        beaten.set()

    monkeypatch.setattr(FileStore, "replace_text", replace)
    with lock_output(spark, str(tmp_path), "r") as lock:
        os.utime(tmp_path / ".lock-1", (1e9, 1e9))
        beaten.clear()
        assert beaten.wait(60)
        assert (tmp_path / ".lock-1").stat().st_mtime > 1.1e9
        lock.require_held()
    assert os.listdir(tmp_path) == []


def test_job_that_lost_its_lock_neither_beats_nor_removes_that_of_the_next(spark, tmp_path):
    with lock_output(spark, str(tmp_path), "r") as lock:
        text = leave_lock(tmp_path, run_id="next", pid=1)
        lock.beat(beats(3))
        with pytest.raises(OutputError, match=r"paused too long and lost its lock on '.*'; .* --resume"):
            lock.require_held()
    assert (tmp_path / ".lock-1").read_bytes() == text


def test_a_failing_heartbeat_is_tried_again(make_lock, tmp_path, monkeypatch, caplog):
    lock = make_lock()
    lock.acquire()
    os.utime(tmp_path / ".lock-1", (1e9, 1e9))
    replace_text, failures = lock.files.replace_text, [OutputError("cannot write")]

    def replace(path, text):
        if failures:
            raise failures.pop()
        replace_text(path, text)

    monkeypatch.setattr(lock.files, "replace_text", replace)
    lock.beat(beats(2))
    assert (tmp_path / ".lock-1").stat().st_mtime > 1.1e9
    assert caplog.messages == ["could not renew the lock on the output, will try again: cannot write"]


def test_one_of_several_takers_gets_an_abandoned_lock(make_lock, tmp_path):
    for _ in range(8):
        leave_lock(tmp_path, age_s=1000)
        holder = only_holder([make_lock(f"taker {number}") for number in range(6)])
        assert os.listdir(tmp_path) == [".lock-2"]
        holder.release()
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("moment", ["_is_abandoned", "create_text"])
@pytest.mark.parametrize("is_fast_still_there", [True, False])
def test_taker_that_was_overtaken_at_any_moment_touches_no_other_lock(
    make_lock, tmp_path, monkeypatch, moment, is_fast_still_there
):
    leave_lock(tmp_path, age_s=1000)
    fast, next_one, slow = make_lock("fast"), make_lock("next"), make_lock("slow")
    owner = slow.files if moment == "create_text" else slow
    step = getattr(owner, moment)

    def overtaken(path, text):
        monkeypatch.undo()
        fast.acquire()
        if not is_fast_still_there:  # the numbers begin again, so the slow one's is free
            fast.release()
            next_one.acquire()
        return step(path, text)

    monkeypatch.setattr(owner, moment, overtaken)
    with pytest.raises(OutputError, match=f"is locked by run '{'fast' if is_fast_still_there else 'next'}'"):
        slow.acquire()
    holder = fast if is_fast_still_there else next_one
    holder.require_held()
    assert os.listdir(tmp_path) == [holder._path.rpartition("/")[2]]


def test_a_job_knows_whether_the_one_before_may_live(make_lock, tmp_path, other_process):
    process, holder = other_process
    leave_lock(tmp_path, age_s=1000, **holder)
    paused, ended, fresh = make_lock(), make_lock(), make_lock()
    paused.acquire()
    paused.release()
    process.kill()
    process.wait()
    leave_lock(tmp_path, **holder)
    ended.acquire()
    ended.release()
    fresh.acquire()
    assert [lock.may_predecessor_live for lock in (paused, ended, fresh)] == [True, False, False]


def test_of_two_locks_the_later_is_held(make_lock, tmp_path):
    paused, taker = make_lock("paused"), make_lock("taker")
    paused.acquire()
    content = (tmp_path / ".lock-1").read_bytes()
    os.utime(tmp_path / ".lock-1", (1e9, 1e9))
    taker.acquire()
    (tmp_path / ".lock-1").write_bytes(content)  # a heartbeat that was under way
    taker.require_held()
    with pytest.raises(OutputError, match="lost its lock"):
        paused.require_held()


def test_lock_that_was_given_up_just_now_is_free(make_lock, monkeypatch):
    first, second = make_lock("first"), make_lock("second")
    first.acquire()
    is_abandoned = second._is_abandoned

    def look(path, text):
        first.release()
        return is_abandoned(path, text)

    monkeypatch.setattr(second, "_is_abandoned", look)
    second.acquire()
    second.require_held()
    assert not second.may_predecessor_live


def test_output_that_cannot_be_written(spark, tmp_path):
    (tmp_path / "file").write_text("precious")
    with (
        pytest.raises(OutputError, match=f"cannot create '{tmp_path}/file/.lock-1'"),
        lock_output(spark, f"{tmp_path}/file", "r"),
    ):
        pass
