"""Logs signs of life of a step: how many of its Spark tasks are done, and the time left."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from mfspark.engine.jobs import running_stages
from mfspark.training.duration import shown_duration

logger = logging.getLogger(__name__)

_POLL_S = 2.0
"""Seconds between two polls. A step that ends sooner gives no sign of life."""
_LONGEST_POLL_S = 2.0
"""How long the end of a step waits for a running poll at most. A poll usually takes milliseconds."""


@contextmanager
def progress_logged(spark: SparkSession, step: str) -> Iterator[None]:
    """Log how far the stages that Spark runs now are, every two seconds; `console.py` shows few of these records.

    The `context` of a record has: step; seconds since the step started; tasks_done and tasks of the running stages;
    seconds_left, None until a task is done. `tasks` is 0 while no Spark job runs, and always on Spark Connect. It
    counts only the tasks of running stages, because Spark plans later stages of a step only after earlier ones.

    step : name of the step, which is also the job group of its Spark jobs

    Runs on the driver, in a thread that ends when the `with` block ends. Errors of the thread do not reach the step.
    """
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=[spark, step, ended], name=f"progress of {step}", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join(_LONGEST_POLL_S)


def _watch(spark: SparkSession, step: str, ended: threading.Event) -> None:
    started = time.monotonic()
    first_seen: dict[int, float] = {}
    while not ended.wait(_POLL_S):
        now = time.monotonic()
        try:
            running = running_stages(spark, step)
        except Exception:  # if something is wrong with Spark, the step reports it
            logger.debug("Spark's status cannot be read", exc_info=True)
            return
        first_seen = {stage: first_seen.get(stage, now) for stage in running}
        done, total = (sum(counts) for counts in zip((0, 0), *running.values(), strict=True))
        elapsed = now - min(first_seen.values(), default=now)
        left = elapsed * (total - done) / done if done and elapsed else None
        if not ended.is_set():
            _log(step, done, total, left, now - started)


def _log(step: str, done: int, total: int, left: float | None, elapsed: float) -> None:
    tasks = f"{done}/{total} tasks, " if total else ""
    time_shown = f"{shown_duration(elapsed)} so far" if left is None else f"{shown_duration(left)} left"
    context = {"step": step, "tasks_done": done, "tasks": total, "seconds_left": left, "seconds": elapsed}
    logger.info("%s: %s%s", step, tasks, time_shown, extra={"context": context})
