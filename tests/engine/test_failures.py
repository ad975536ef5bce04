"""What of an error is the cluster's fault, by Spark's own messages, shortened."""

import pytest
from pyspark.errors import PySparkException

from mfspark.engine.failures import cluster_failure

STAGE_FAILED = (
    "An error occurred while calling z:org.apache.spark.api.python.PythonRDD.runJob.\n"
    ": org.apache.spark.SparkException: Job aborted due to stage failure: Task 1 in stage 13.0 failed 4 times, most "
    "recent failure: Lost task 1.3 in stage 13.0 (TID 19) (10.0.0.3 executor 0): {reason}\n\tat {where}\n"
)
SHUFFLE = "org.apache.spark.shuffle.sort.BypassMergeSortShuffleWriter.write(BypassMergeSortShuffleWriter.java:140)"
OUTPUT = "org.apache.spark.sql.execution.datasources.FileFormatWriter$.executeTask(FileFormatWriter.scala:443)"
TASK = "Lost task 1.3 in stage 13.0 (TID 19) (10.0.0.3 executor 0): "


@pytest.mark.parametrize(
    ("reason", "where", "message"),
    [
        (
            "java.io.IOException: No space left on device",
            SHUFFLE,
            f"a disk under spark.local.dir is full: {TASK}java.io.IOException: No space left on device; free space",
        ),
        # A spill while a table is written: it is not the table's disk that is full.
        ("java.io.IOException: No space left on device", f"{SHUFFLE}\n\tat {OUTPUT}", "a disk under spark.local.dir"),
        ("java.lang.OutOfMemoryError: Java heap space", SHUFFLE, f"memory ran out: {TASK}java.lang.OutOfMemoryError"),
        (
            "ExecutorLostFailure (executor 0 exited caused by a running task) Reason: Command exited with code 137",
            SHUFFLE,
            f"executors or their Python workers were lost too often: {TASK}ExecutorLostFailure",
        ),
        (
            "org.apache.spark.SparkException: Python worker exited unexpectedly (crashed).",
            SHUFFLE,
            f"executors or their Python workers were lost too often: {TASK}org.apache.spark.SparkException: Python",
        ),
        # Both executors that had a block of a wide side's factors.
        (
            "[CHECKPOINT_RDD_BLOCK_ID_NOT_FOUND] Checkpoint block rdd_92_0 not found!\nEither the executor that",
            SHUFFLE,
            f"executors or their Python workers were lost too often: {TASK}[CHECKPOINT_RDD_BLOCK_ID_NOT_FOUND]",
        ),
    ],
)
def test_the_message_names_what_has_failed_and_where(reason, where, message):
    failure = cluster_failure(PySparkException(STAGE_FAILED.format(reason=reason, where=where)))
    assert failure.startswith(message)
    assert "\n" not in failure


@pytest.mark.parametrize(
    "text",
    [
        '<_InactiveRpcError of RPC that terminated with:\n\tstatus = StatusCode.UNAVAILABLE\n\tdetails = "refused"\n>',
        "[INVALID_HANDLE.SESSION_NOT_FOUND] The handle 1-2 is invalid. Session not found. SQLSTATE: HY000",
    ],
)
def test_a_server_that_ended_is_named(text):
    failure = cluster_failure(PySparkException(text))
    assert failure.startswith("the Spark Connect server ended, or does not answer any more: ")
    assert failure.endswith("; start it again, and look into its log for why it ended")
    assert "\n" not in failure


@pytest.mark.parametrize(
    ("reason", "where"),
    [("java.io.IOException: No space left on device", OUTPUT), ("java.lang.NullPointerException", SHUFFLE)],
)
def test_a_full_output_and_a_defect_are_not_the_clusters_fault(reason, where):
    assert cluster_failure(PySparkException(STAGE_FAILED.format(reason=reason, where=where))) is None
