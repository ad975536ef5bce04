"""Names of Spark jobs in the UI, the event log and the status tracker."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import SparkContext


@contextmanager
def named_jobs(context: SparkContext, description: str, group: str | None = None) -> Iterator[None]:
    """Name the jobs of this thread; restore the caller's names afterwards.

    Parameters
    ----------
    group : job group for `SparkContext.cancelJobGroup` and the status tracker; if not given, the caller's
    """
    names: dict[str, str | None] = {"spark.job.description": description}
    if group is not None:
        names["spark.jobGroup.id"] = group
    before: dict[str, str | None] = {key: context.getLocalProperty(key) for key in names}
    _set(context, names)
    try:
        yield
    finally:
        _set(context, before)


def _set(context: SparkContext, names: dict[str, str | None]) -> None:
    for key, value in names.items():
        context.setLocalProperty(key, value)  # type: ignore[arg-type]  # None clears it
