"""What goes wrong with files and requests on S3, and what is left: a complete run, and a job that can go on."""

import json
import logging
import re
import threading
import time
from collections import Counter
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfspark.engine.files import FileStore
from mfspark.errors import OutputError
from mfspark.storage import lock as lock_module
from mfspark.storage.lock import OutputLock, lock_output
from mfspark.storage.retention import prune_runs
from mfspark.storage.runs import open_run
from tests.cluster.processes import wait_until
from tests.cluster.submit import end_jobs, submit
from tests.storage.crash import PowerCut, cut_power_after
from tests.storage.race import only_holder
from tests.storage.test_publishing import config_of, job
from tests.stores.conftest import s3a_settings
from tests.stores.place import Bucket
from tests.stores.proxy import no_fault, refusal, without_keys
from tests.stores.test_s3 import put_ratings, run, tables_of, workspace_on

pytestmark = [pytest.mark.spark, pytest.mark.stores]

logger = logging.getLogger(__name__)
"""With --log-cli-level=INFO the tests tell how often each fault struck."""

N_PUBLISHES, N_ROWS = 50, 1000


def seen_by_a_reader(bucket):
    """The texts of both steps of the run that CURRENT names, which must be complete."""
    name = bucket.current()
    assert bucket.json(f"runs/{name}/manifest.json")["status"] == "complete"
    return bucket.read(f"runs/{name}/ingest"), bucket.read(f"runs/{name}/train")


def leave_published(spark, output):
    job(spark, output, "a", "new", "old")
    job(spark, output, "b", "new", "old")


def leave_paused(spark, output):
    """A run whose job is on another machine and may only have paused."""
    leave_published(spark, output)
    with lock_output(spark, output, "r") as lock:
        unfinished = open_run(spark, config_of(output), "r", "new", lock)
        with unfinished.step("ingest"):
            unfinished.files.replace_text(unfinished.path("ingest"), "new")
        text = lock.files.read_text(f"{output}/.lock-1")
    lock.files.replace_text(f"{output}/.lock-1", json.dumps({**json.loads(text), "machine": "another"}))


SCENARIOS = {
    # What there is before; run id, mode and keep_runs of the job; the runs with a manifest after it.
    "new run, old ones removed": (leave_published, "r", "new", 1, ["r"]),
    "resumed from another machine": (leave_paused, "r", "resume", None, ["a", "b", "r@2"]),
}


def copy(source: Bucket, target: Bucket):
    for name in source.names():
        source.s3.copy_file(f"{source.path}/{name}", f"{target.path}/{name}")


def delete_first_objects(files, path):
    """Delete what has the first name in a folder of the store."""
    for name in sorted(files._system.names(path))[:1]:
        files._system.delete(f"{path}/{name}")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_between_any_two_file_operations_can_be_gone_on_from(spark, bucket, monkeypatch, scenario):
    prepare, run_id, mode, keep_runs, expected = SCENARIOS[scenario]
    before = Bucket(bucket.s3, f"{bucket.path}/before")
    prepare(spark, before.uri)
    # The jobs that come after the crash are other processes than the one that was cut off, and later.
    monkeypatch.setattr(lock_module, "_is_alive", lambda *_: False)
    monkeypatch.setattr(lock_module, "ABANDONED_S", -1)
    seen, is_cut = [], True
    while is_cut:
        output = Bucket(bucket.s3, f"{bucket.path}/{len(seen)}")
        copy(before, output)
        with monkeypatch.context() as patch:
            is_over = cut_power_after(patch, len(seen), delete_first_objects)
            with suppress(PowerCut):
                job(spark, output.uri, run_id, mode, "new", keep_runs)
            is_cut = is_over()
        seen.append(seen_by_a_reader(output))
        if seen[-1] == ("old", "old"):
            job(spark, output.uri, run_id, "resume", "new", keep_runs)
        assert seen_by_a_reader(output) == ("new", "new")
        with lock_output(spark, output.uri, "any") as lock:
            prune_runs(lock.files, output.uri, keep_runs)
        assert output.runs() in (expected, [name.partition("@")[0] for name in expected], sorted([*expected, run_id]))
        # An empty file that tells the clock of the store stays if the power goes just then.
        assert not [name for name in output.names() if re.fullmatch(r"\.lock-\d+|runs/\..*", name)]
    # First the old run, from one operation on the new one.
    switched = seen.index(("new", "new"))
    assert 0 < switched < len(seen) - 1
    assert seen == [("old", "old")] * switched + [("new", "new")] * (len(seen) - switched)
    logger.info(f"{scenario}: {len(seen)} crashes")


class FailsFirst:
    """Every request fails once, and goes through when it is repeated."""

    def __init__(self, fail):
        self.fail, self.tries, self._lock = fail, Counter(), threading.Lock()

    def __call__(self, request, forward):
        key = (request.method, request.key, str(sorted(request.query.items())))
        with self._lock:
            self.tries[key] += 1
            is_first = self.tries[key] == 1
        return self.fail(forward) if is_first else forward()


def reset(forward):  # noqa: ARG001
    raise ConnectionResetError


def lose_answer(forward):
    forward()
    raise ConnectionResetError


def answer_slowly(forward):
    time.sleep(0.3)
    return forward()


FAULTS = {
    "503 Slow Down": lambda _: refusal(503, "SlowDown"),
    "500": lambda _: refusal(500, "InternalError"),
    "connection reset": reset,
    "answer lost": lose_answer,
    "slow answer": answer_slowly,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_run_survives_though_every_request_fails_once(spark, bucket, tmp_path, proxy, fault):  # noqa: ARG001
    put_ratings(bucket, 0, 600)
    workspace = workspace_on(bucket, tmp_path)
    run(workspace, run_id="good")
    expected = tables_of(bucket, "good")
    failing = FailsFirst(FAULTS[fault])
    proxy.set(failing)
    n_jobs, exit_codes = 0, []
    while not exit_codes or exit_codes[-1] != 0:
        outcome = workspace.run("--resume", "input.incremental=false", run_id="struck")
        exit_codes.append(outcome.exit_code)
        assert outcome.exit_code in (0, 3, 4, 5), outcome.stderr
        n_jobs += 1
        assert n_jobs < 8, outcome.stderr
    proxy.set(no_fault)
    assert bucket.read("out/CURRENT") == "struck\n"
    assert tables_of(bucket, "struck") == expected
    logger.info(f"{fault}: {len(failing.tries)} requests failed once; exit codes {exit_codes}")


def make_lock(spark, bucket, run_id):
    return OutputLock(FileStore(spark, bucket.uri), bucket.uri, run_id)


def conflict_once():
    """Two conditional writes at the same time: S3 may answer both with a conflict, to be tried again."""
    conflicts = iter([True] * 2)

    def fault(request, forward):
        is_struck = request.is_conditional and next(conflicts, False)
        return refusal(409, "ConditionalRequestConflict") if is_struck else forward()

    return fault


def lagging_listing():
    """New keys and folders appear in listings ten listings later."""
    ages, lock = {}, threading.Lock()

    def fault(request, forward):
        answer = forward()
        with lock:
            if request.method == "PUT":
                ages.setdefault(request.key, 0)
            if not request.is_listing:
                return answer
            ages.update({key: age + 1 for key, age in ages.items()})
            young = dict(ages)

        def is_hidden(key):
            below = [age for other, age in young.items() if other.startswith(key)]
            return bool(below) and max(below) < 10

        return without_keys(answer, is_hidden)

    return fault


@pytest.mark.parametrize("fault", [lambda: no_fault, conflict_once, lagging_listing])
def test_one_of_several_jobs_gets_the_lock(spark, bucket, proxy, monkeypatch, fault):
    monkeypatch.setattr(OutputLock, "_is_abandoned", lambda _, path, text: "dead" in text)  # noqa: ARG005
    for number in range(6):
        output = Bucket(bucket.s3, f"{bucket.path}/{number}")
        if number % 2:
            output.write(".lock-1", json.dumps({"pid": 1, "machine": "another", "run_id": "dead"}))
        proxy.set(fault())
        only_holder([make_lock(spark, output, f"taker {taker}") for taker in range(4)]).release()
        proxy.set(no_fault)
        assert output.names() == []


def test_a_run_that_no_listing_shows_is_not_written_over(spark, bucket, proxy):
    job(spark, bucket.uri, "a", "new", "old")
    proxy.set(lambda request, forward: without_keys(forward(), lambda _: True) if request.is_listing else forward())
    with pytest.raises(OutputError, match="exists already"):
        job(spark, bucket.uri, "a", "new", "new")
    assert seen_by_a_reader(bucket) == ("old", "old")


def test_job_is_refused_while_another_holds_the_output(spark, bucket, tmp_path):
    put_ratings(bucket, 0, 600)
    with lock_output(spark, f"{bucket.uri}/out", "the other"):
        outcome = workspace_on(bucket, tmp_path).run()
    assert outcome.exit_code == 5
    assert "is locked by run 'the other'" in outcome.errors[0]


class Reader(threading.Thread):
    """Reads what CURRENT names, again and again."""

    def __init__(self, bucket, published):
        super().__init__()
        self.bucket, self.published = bucket, published
        self.n_reads, self.problems, self.is_over = 0, [], False

    def run(self):
        while not self.is_over:
            number = self.published.index(self.bucket.read("CURRENT").strip())
            try:
                folder = f"{self.bucket.path}/runs/{self.published[number]}/table"
                table = pq.read_table(folder, filesystem=self.bucket.s3)
                assert table.column("number").to_pylist() == [number] * N_ROWS
                self.n_reads += 1
            except Exception as problem:
                # A run whose tables may go is at least two publishes old.
                if number >= len(self.published) - 2:
                    self.problems.append(problem)


def publish_table(spark, bucket, number, published):
    """Publish a run whose table has its number in all rows of two files; only one run is kept."""
    run_id, mode = ("again", "overwrite") if number % 3 == 0 else (f"run-{number}", "new")
    with lock_output(spark, bucket.uri, run_id) as lock:
        opened = open_run(spark, config_of(bucket.uri, 1), run_id, mode, lock)
        for part in range(2):
            rows = pa.table({"number": [number] * (N_ROWS // 2)})
            path = f"{bucket.path}/runs/{opened.name}/table/part-{part}.parquet"
            pq.write_table(rows, path, filesystem=bucket.s3)
        published.append(opened.name)
        opened.publish()


def test_readers_never_see_a_broken_table(spark, bucket):
    published = []
    publish_table(spark, bucket, 0, published)
    readers = [Reader(bucket, published) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, N_PUBLISHES):
        publish_table(spark, bucket, number, published)
    for reader in readers:
        reader.is_over = True
        reader.join()
        assert reader.problems == []
        assert reader.n_reads > 2  # it did read in between
    assert bucket.read("CURRENT") == published[-1] + "\n"
    assert bucket.runs() == published[-1:]
    logger.info(f"{sum(reader.n_reads for reader in readers)} reads during {N_PUBLISHES} publishes")


STEPS = {
    # The request on whose arrival the driver dies.
    "ingest": lambda request: request.method == "POST" and "/runs/run/ratings/" in request.key,
    "train": lambda request: request.method == "PUT" and request.key.endswith("/checkpoint/train/iteration-000002.npz"),
    "recommend": lambda request: request.method == "PUT" and "/runs/run/recommendations/" in request.key,
    "evaluate": lambda request: request.method == "PUT" and request.key.endswith("/run/report.html"),
    "publish": lambda request: request.method == "PUT" and request.key.endswith("/CURRENT"),
}


def test_run_goes_on_after_its_driver_was_killed_in_each_step(spark, bucket, tmp_path, proxy):  # noqa: ARG001
    put_ratings(bucket, 0, 600)
    output = {"path": f"{bucket.uri}/out", "report": True}
    workspace = workspace_on(bucket, tmp_path, output=output, input={"path": f"{bucket.uri}/in"})
    conf = s3a_settings(proxy.address)
    run(workspace, f"output.path={bucket.uri}/undisturbed")
    expected = tables_of(bucket, "run", "undisturbed")
    for step, is_the_moment in STEPS.items():
        arrived = threading.Event()

        def hold(request, forward, arrived=arrived, is_the_moment=is_the_moment):
            if is_the_moment(request):
                arrived.set()
                raise ConnectionResetError  # and this request is the last one that it sends
            if arrived.is_set():
                raise ConnectionResetError
            return forward()

        proxy.set(hold)
        started = submit("local[2]", workspace, "--resume", conf=conf)
        wait_until(lambda: arrived.is_set() or not started.is_alive, f"a sign of {step}")  # noqa: B023
        assert arrived.is_set(), started.output
        started.kill()
        proxy.set(no_fault)
        assert "CURRENT" not in bucket.names("out")
    run(workspace, "--resume")
    assert bucket.read("out/CURRENT") == "run\n"
    assert tables_of(bucket, "run") == expected


@pytest.fixture(autouse=True)
def ended_jobs():
    """No job outlives its test, also where the test fails."""
    yield
    end_jobs()
