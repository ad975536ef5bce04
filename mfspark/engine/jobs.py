"""Names of Spark jobs in the UI and the event log, and how far jobs are."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import SparkContext
from pyspark.sql import SparkSession

from mfspark.engine.session import is_connect


@contextmanager
def named_jobs(spark: SparkSession, description: str, group: str | None = None) -> Iterator[None]:
    """Name the jobs of this thread; restore the caller's names afterwards.

    On Spark Connect, which has no descriptions and no groups, the description is a tag.

    Parameters
    ----------
    group : job group for `SparkContext.cancelJobGroup` and `running_stages`; if not given, the caller's
    """
    names = {"spark.job.description": description} | ({} if group is None else {"spark.jobGroup.id": group})
    with _tagged(spark, description) if is_connect(spark) else _described(spark.sparkContext, names):
        yield


def running_stages(spark: SparkSession, group: str) -> dict[int, tuple[int, int]]:
    """For each stage that runs tasks of the job group now: the number of completed tasks and of all tasks.

    Empty on Spark Connect, which has no status tracker.
    """
    if is_connect(spark):
        return {}
    tracker = spark.sparkContext.statusTracker()
    active = set(tracker.getActiveJobsIds())
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group) if job in active] if active else []
    stages = {stage: tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds}
    # Stages without active tasks wait for others, or Spark skips them because an earlier job computed their result.
    return {
        number: (stage.numCompletedTasks, stage.numTasks)
        for number, stage in stages.items()
        if stage is not None and stage.numActiveTasks
    }


@contextmanager
def _described(context: SparkContext, names: dict[str, str]) -> Iterator[None]:
    before: dict[str, str | None] = {key: context.getLocalProperty(key) for key in names}
    _set(context, names)
    try:
        yield
    finally:
        _set(context, before)


def _set(context: SparkContext, names: dict[str, str] | dict[str, str | None]) -> None:
    for key, value in names.items():
        context.setLocalProperty(key, value)  # type: ignore[arg-type]  # None clears it


@contextmanager
def _tagged(spark: SparkSession, description: str) -> Iterator[None]:
    tag = description.replace(",", ";")  # Spark allows no comma
    is_new = tag not in spark.getTags()
    if is_new:
        spark.addTag(tag)
    try:
        yield
    finally:
        if is_new:
            spark.removeTag(tag)
