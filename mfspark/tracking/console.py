"""Console output of a job: lines, a progress bar on a terminal, JSON for a log collector."""

import logging
import os
import time
from typing import Any, Literal, TextIO

from tqdm import tqdm

from mfspark.training.duration import shown_duration

LogFormat = Literal["text", "json"]


def console_handler(log_format: LogFormat, stream: TextIO) -> logging.Handler:
    """The handler for progress (INFO) and higher levels.

    `text`: lines with the time; on a terminal also a progress bar of the iterations.
    `json`: one object per line in the format of Spark's structured log, for
    `spark.read.schema(pyspark.logger.SPARK_LOG_SCHEMA).json`; `context` has the numbers of the line, from the attribute
    `context` of the log record.
    """
    if log_format == "json":
        # Imported late, so that a wrong flag is reported before Spark loads.
        from pyspark.logger.logger import JSONFormatter

        handler: logging.Handler = logging.StreamHandler(stream)
        formatter = JSONFormatter()
        # The format of Spark's JVM; PySpark's has no time zone and no T.
        formatter.converter = time.gmtime
        formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
        handler.setFormatter(formatter)
    else:
        handler = (_TerminalHandler if _reaches_terminal(stream) else logging.StreamHandler)(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.setLevel(logging.INFO)
    return handler


def _reaches_terminal(stream: TextIO) -> bool:
    """Whether the output ends on a terminal.

    Under spark-submit both streams of a job are pipes: the JVM that started it copies them to its own output. If the
    output of that process cannot be looked up, it counts as a file.
    """
    if stream.isatty() or "PYSPARK_GATEWAY_PORT" not in os.environ:
        return stream.isatty()
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False


class _TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 has no such argument
    """Lines, and below them a bar while a training iterates."""

    _bar: "tqdm[None] | None" = None

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)
        context = getattr(record, "context", {})
        if "max_iter" in context:
            self._show(context)
        if "stop_reason" in context:
            self.close_bar()

    def close(self) -> None:
        self.close_bar()
        super().close()

    def close_bar(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, context: dict[str, Any]) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=context["max_iter"],
                initial=context["iteration"],
                file=self.stream,
                leave=False,
                dynamic_ncols=True,
                bar_format="training {percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt}{postfix}",
            )
        # The same time left as in the log line; tqdm would count from the first bar.
        self._bar.set_postfix_str(f"{shown_duration(context['seconds_left'])} left", refresh=False)
        self._bar.n = context["iteration"]
        self._bar.refresh()
