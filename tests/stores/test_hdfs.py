"""The pipeline on HDFS: the same tables, a lock for one job, and a crash at any moment."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow.parquet as pq
import pytest

from mfspark.engine.files import FileStore
from mfspark.errors import OutputError
from mfspark.storage import lock as lock_module
from mfspark.storage.lock import OutputLock, lock_output
from tests.jobs.runner import Workspace
from tests.storage.crash import PowerCut, cut_power_after
from tests.storage.test_publishing import job
from tests.stores.hadoop import Hdfs
from tests.stores.test_s3 import RATINGS, SETTINGS, run

pytestmark = [pytest.mark.spark, pytest.mark.stores]


@pytest.fixture(scope="module")
def hdfs(tmp_path_factory):
    servers = Hdfs(tmp_path_factory.mktemp("hdfs") / "servers")
    yield servers
    servers.stop()


def test_a_run_that_is_resumed_leaves_the_tables_that_a_local_disk_has(spark, hdfs, tmp_path):
    here = Workspace(tmp_path, **SETTINGS)
    pq.write_table(RATINGS, here.input)
    run(here)
    FileStore(spark, hdfs.uri).upload(here.input, f"{hdfs.uri}/in/ratings.parquet")
    paths = [f"input.path={hdfs.uri}/in", f"output.path={hdfs.uri}/out"]
    run(here, *paths, job="ingest")
    run(here, *paths, "--resume")
    for name in ("user_factors", "item_factors", "recommendations"):
        there = spark.read.parquet(f"{hdfs.uri}/out/runs/run/{name}").toArrow().to_pylist()
        assert sorted(there, key=repr) == here.rows(name), name
    files = FileStore(spark, hdfs.uri)
    assert files.read_text(f"{hdfs.uri}/out/CURRENT") == "run\n"
    assert files.list_names(f"{hdfs.uri}/out") == ["CURRENT", "runs"]
    with lock_output(spark, f"{hdfs.uri}/out", "the other"):
        outcome = here.run(*paths, run_id="next")
    assert (outcome.exit_code, "is locked by run 'the other'" in outcome.errors[0]) == (5, True)


def test_one_of_several_jobs_gets_the_lock(spark, hdfs):
    n_jobs = 4
    barrier = threading.Barrier(n_jobs)

    def take(lock):
        barrier.wait()
        with suppress(OutputError):
            lock.acquire()
        return lock._path is not None

    with ThreadPoolExecutor(n_jobs) as takers:
        for number in range(5):
            output = f"{hdfs.uri}/locks/{number}"
            locks = [OutputLock(FileStore(spark, output), output, f"taker {taker}") for taker in range(n_jobs)]
            assert sum(takers.map(take, locks)) == 1


def test_a_crash_between_any_two_file_operations_can_be_gone_on_from(spark, hdfs, monkeypatch):
    monkeypatch.setattr(lock_module, "_is_alive", lambda *_: False)
    files = FileStore(spark, hdfs.uri)
    seen, is_cut = [], True
    while is_cut:
        output = f"{hdfs.uri}/crash/{len(seen)}"
        job(spark, output, "a", "new", "old")
        with monkeypatch.context() as patch:
            is_over = cut_power_after(patch, len(seen))
            with suppress(PowerCut):
                job(spark, output, "r", "new", "new", keep_runs=1)
            is_cut = is_over()
        # One operation of the name node replaces CURRENT, so there always is one.
        seen.append(files.read_text(f"{output}/CURRENT"))
        job(spark, output, "r", "resume", "new", keep_runs=1)
        assert files.read_text(f"{output}/CURRENT") == "r\n"
        assert files.read_json(f"{output}/runs/r/manifest.json")["status"] == "complete"
    switched = seen.index("r\n")
    assert 0 < switched < len(seen) - 1
    assert seen == ["a\n"] * switched + ["r\n"] * (len(seen) - switched)
