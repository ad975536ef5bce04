"""A store that cannot be used: one line that says why, and an exit code."""

import pytest

from mfspark.engine.files import FileStore
from mfspark.errors import OutputError
from mfspark.storage.lock import lock_output
from tests.stores.proxy import Answer, refusal
from tests.stores.test_s3 import put_ratings, workspace_on

pytestmark = [pytest.mark.spark, pytest.mark.stores, pytest.mark.usefixtures("spark")]


@pytest.fixture
def settings(spark):
    """Hadoop's settings of this test; afterwards they are as before, and no connection is kept."""
    conf, before = spark.sparkContext._jsc.hadoopConfiguration(), {}

    def change(**changes):
        for key, value in changes.items():
            name = f"fs.s3a.{key.replace('__', '.')}"
            before.setdefault(name, conf.get(name))
            conf.unset(name) if value is None else conf.set(name, value)
        spark.sparkContext._jvm.org.apache.hadoop.fs.FileSystem.closeAll()

    yield change
    for name, value in before.items():
        conf.unset(name) if value is None else conf.set(name, value)
    spark.sparkContext._jvm.org.apache.hadoop.fs.FileSystem.closeAll()


def refuse(workspace, exit_code, *parts, arguments=()):
    outcome = workspace.run(*arguments, run_id="bad")
    assert outcome.exit_code == exit_code, outcome.stderr
    assert len(outcome.errors) == 1, outcome.stderr
    for part in parts:
        assert part in outcome.errors[0]
    assert "Traceback" not in outcome.stderr
    assert "\tat " not in outcome.stderr


def test_no_bucket(bucket, tmp_path):
    put_ratings(bucket, 0, 600)
    workspace, remedy = workspace_on(bucket, tmp_path), "the bucket does not exist; create it or correct the path"
    refuse(workspace, 5, "OutputError: ", "s3a://nowhere/out", remedy, arguments=["output.path=s3a://nowhere/out"])
    message = "DataError: the input 's3a://nowhere/in' cannot be read: "
    refuse(workspace, 3, message, remedy, arguments=["input.path=s3a://nowhere/in"])


def test_credentials_that_are_missing_or_wrong(bucket, tmp_path, settings):
    put_ratings(bucket, 0, 600)
    workspace = workspace_on(bucket, tmp_path)
    settings(secret__key="wrong")
    refuse(workspace, 5, "OutputError: ", bucket.uri, "the store refuses the job's credentials; correct them")
    settings(access__key=None, secret__key=None)
    refuse(workspace, 5, "OutputError: ", bucket.uri, "there are no credentials for the store; give the job a role")
    here = [f"output.path={tmp_path}/out"]
    refuse(workspace, 3, "DataError: ", bucket.uri, "there are no credentials for the store", arguments=here)


def ignores_conditions(request, forward):
    """A store that writes whether there is such an object or not."""
    answer = forward()
    return Answer(200, [("ETag", '"0"')], b"") if request.is_conditional and answer.status == 412 else answer


def refuses_conditions(request, forward):
    return refusal(501, "NotImplemented") if request.is_conditional else forward()


def test_store_without_conditional_writes_is_refused_unless_the_scheduler_keeps_jobs_apart(
    bucket, tmp_path, settings, proxy
):
    put_ratings(bucket, 0, 600)
    workspace = workspace_on(bucket, tmp_path)
    message = "ConfigError: the store of"
    remedies = ("conditional writes", "let your scheduler start one job at a time and set output.single_writer = true")
    proxy.set(ignores_conditions)
    refuse(workspace, 2, message, *remedies)
    proxy.set(refuses_conditions)
    refuse(workspace, 2, message, *remedies)
    settings(create__conditional__enabled="false")
    refuse(workspace, 2, message, *remedies)
    assert [name for name in bucket.names() if not name.startswith("in/")] == []
    outcome = workspace.run("output.single_writer=true")
    assert outcome.exit_code == 0, outcome.stderr
    assert bucket.read("out/CURRENT") == "run\n"


def test_even_an_unsafe_lock_keeps_out_a_job_that_comes_later(bucket, spark, settings):
    settings(create__conditional__enabled="false")
    assert not FileStore(spark, bucket.uri).creates_for_one
    with (
        lock_output(spark, bucket.uri, "first", single_writer=True),
        pytest.raises(OutputError, match="is locked by run 'first'"),
        lock_output(spark, bucket.uri, "second", single_writer=True),
    ):
        pass
