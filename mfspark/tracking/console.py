"""Console output of a job: lines, a progress bar on a terminal, JSON for a log collector."""

import logging
import os
import time
from typing import Any, Literal, TextIO

from tqdm import tqdm

from mfspark.training.duration import shown_duration

LogFormat = Literal["text", "json"]


_SILENCE_S = 10.0
"""A sign of life becomes a line if there was no other line for this many seconds."""


def console_handler(log_format: LogFormat, stream: TextIO) -> logging.Handler:
    """The console handler, for records of level INFO and higher.

    `text`: lines with the time, and on a terminal a progress bar for the iterations and for Spark's tasks.
    `json`: one object per line in the format of Spark's structured log, for
    `spark.read.schema(pyspark.logger.SPARK_LOG_SCHEMA).json`. The field `context` has the numbers of the line; it comes
    from the attribute `context` of the log record.
    """
    handler: logging.Handler
    if log_format == "text" and _reaches_terminal(stream):
        handler = _TerminalHandler(stream)
    else:
        handler = logging.StreamHandler(stream)
        handler.addFilter(SparingSignsOfLife())
    handler.setFormatter(formatter(log_format, "%(asctime)s %(message)s", "%H:%M:%S"))
    handler.setLevel(logging.INFO)
    return handler


def formatter(log_format: LogFormat, line: str, time_format: str | None = None) -> logging.Formatter:
    """The formatter for JSON, or for text with these formats of a line and its time."""
    if log_format == "text":
        return logging.Formatter(line, time_format)
    # Imported late, so that a wrong flag is reported before Spark loads.
    from pyspark.logger.logger import JSONFormatter

    as_json = JSONFormatter()
    # The time format of Spark's JVM; PySpark's own has no time zone and no T.
    as_json.converter = time.gmtime
    as_json.default_time_format, as_json.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    return as_json


class SparingSignsOfLife(logging.Filter):
    """Drops a record of `progress.py` if the handler printed another line in the 10 s before it."""

    def __init__(self) -> None:
        super().__init__()
        self._last: float | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is printed."""
        if self._last is not None and _is_sign_of_life(record) and record.created - self._last < _SILENCE_S:
            return False
        self._last = record.created
        return True


def _is_sign_of_life(record: logging.LogRecord) -> bool:
    return "tasks" in _context(record)


def _context(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "context", {})


def _reaches_terminal(stream: TextIO) -> bool:
    """Whether a terminal shows the output.

    Under spark-submit both streams of a job are pipes, which the JVM that started the job copies to its own output. If
    it cannot be found out where that output goes, the answer is no.
    """
    if stream.isatty() or "PYSPARK_GATEWAY_PORT" not in os.environ:
        return stream.isatty()
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False


class _TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 has no such argument
    """Prints lines and below them a bar: of the iterations during training, else of the tasks that Spark runs."""

    _bar: "tqdm[None] | None" = None
    _is_training = False

    def emit(self, record: logging.LogRecord) -> None:
        context = _context(record)
        if _is_sign_of_life(record):
            if not self._is_training:
                message = record.getMessage()
                self._draw(
                    f"{message} |{{bar}}|" if context["tasks"] else message, context["tasks_done"], context["tasks"]
                )
            return
        if not self._is_training:  # this line may be the end of the step
            self.close_bar()
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)
        if "max_iter" in context:
            self._is_training = True
            # The time left is that of the log line; tqdm would estimate it from the time since the bar was first drawn.
            left = shown_duration(context["seconds_left"])
            shown = f"training {{percentage:3.0f}} %|{{bar}}| {{n_fmt}}/{{total_fmt}}, {left} left"
            self._draw(shown, context["iteration"], context["max_iter"])
        if "stop_reason" in context:
            self.close_bar()

    def close(self) -> None:
        self.close_bar()
        super().close()

    def close_bar(self) -> None:
        """Remove the bar."""
        self._is_training = False
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, bar_format: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=total, initial=done, file=self.stream, leave=False, dynamic_ncols=True, bar_format=bar_format
            )
            return
        self._bar.bar_format, self._bar.n, self._bar.total = bar_format, done, total
        self._bar.refresh()
