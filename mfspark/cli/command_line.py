"""The command line of every job. It parses the flags, runs the job and returns an exit code of `errors.py`.

If a job fails, one line on stderr says what is wrong; the traceback goes to the log file.

The log format is a flag and not a setting, because it depends on who calls the job, and because errors in the
configuration file must be reported in it too.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from mfspark.cli.signals import Stopped, catch_signals_again, stopped_by_signals
from mfspark.config.loading import load_config, load_study_config
from mfspark.errors import MfsparkError, exit_codes, interrupt_behind
from mfspark.tracking.console import LogFormat, console_handler
from mfspark.tracking.log_file import LogFile

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from mfspark.config.sections import OutputConfig
    from mfspark.storage.lock import OutputLock
    from mfspark.storage.runs import OpenMode

logger = logging.getLogger("mfspark")


def run_job(description: str, steps: list[str], arguments: list[str]) -> int:
    """Run these steps of the pipeline and return the exit code of the process."""
    return guarded(_parse(description, arguments, begins=steps[0] == "ingest"), partial(_run, steps=steps))


def run_tuning(description: str, arguments: list[str]) -> int:
    """Run a study and return the exit code of the process."""
    return guarded(_parse(description, arguments, begins=True), _tune)


def run_rollback(description: str, arguments: list[str]) -> int:
    """Make an earlier run the current one and return the exit code of the process."""
    parser = _parser(description)
    parser.add_argument("--run-id", help="folder name of the run; default: the run published before the current one")
    return guarded(parser.parse_args(arguments), _roll_back)


def guarded(options: argparse.Namespace, work: Callable[[argparse.Namespace, LogFile], None]) -> int:
    """Do the work of a job, whose options have a log_format; report an error and return the exit code."""
    log = _start_logging(options.log_format)
    last = _LastStep()
    logger.addHandler(last)
    try:
        with stopped_by_signals():
            work(options, log)
    except (Exception, KeyboardInterrupt) as error:
        message, exit_code = _told(error, last, getattr(options, "run_id", None))
        return _report(message, exit_code, log, options.log_format)
    finally:
        log.close()
    return 0


def _told(error: BaseException, last: "_LastStep", run_id: str | None) -> tuple[str, int]:
    """The message and the exit code for an error that ended a job."""
    stop = interrupt_behind(error)
    if isinstance(stop, Stopped):
        remedy = "repeat the command" if run_id is None else f"continue with --run-id {run_id} --resume"
        return f"{stop}{last.described()}; {remedy}", stop.exit_code
    if isinstance(error, MfsparkError):
        return f"{type(error).__name__}: {error}", error.exit_code
    return f"unexpected {type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}", 1


class _LastStep(logging.Handler):
    """Remembers the step and iteration of the last log record."""

    step, iteration = "", 0

    def emit(self, record: logging.LogRecord) -> None:
        context = getattr(record, "context", {})
        if context.get("step", self.step) != self.step:
            self.step, self.iteration = context["step"], 0
        self.iteration = context.get("iteration", self.iteration)

    def described(self) -> str:
        """The current step, with the iteration during training; empty before the first step."""
        iteration = f", after iteration {self.iteration}" if self.iteration else ""
        return f" in {self.step}{iteration}" if self.step else ""


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line like every other error, after the list of flags."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"mfspark: {_one_line(message)}; see --help\n")


def _parse(description: str, arguments: list[str], *, begins: bool) -> argparse.Namespace:
    parser = _parser(description)
    parser.add_argument("--run-id", help="name of the run; default: the start time in UTC")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="continue the run with this id; does nothing if it is published"
    )
    again.add_argument("--overwrite", action="store_true", help="repeat the run with this id, or one step of it")
    options = parser.parse_args(arguments)
    if options.run_id is None and (options.resume or not begins):
        parser.error("--run-id is required to continue a run")
    return options


def _parser(description: str) -> Parser:
    """A parser with the flags of every job that has a configuration."""
    parser = session_parser(description)
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML file, as mfspark init writes it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="override one setting; may be repeated",
    )  # fmt: skip
    return parser


def session_parser(description: str) -> Parser:
    """A parser with the flags of everything that starts Spark."""
    parser = job_parser(description)
    parser.add_argument(
        "--remote", metavar="URL", default=os.environ.get("SPARK_REMOTE") or None,
        help="run on this Spark Connect server, sc://host:port; default: $SPARK_REMOTE, else a classic session",
    )  # fmt: skip
    parser.add_argument(
        "--ship", metavar="FILE", action="append", default=[],
        help="with --remote: send mfspark.zip or environment.tar.gz of scripts/pack_environment to the executors",
    )  # fmt: skip
    return parser


@contextmanager
def session(options: argparse.Namespace, app_name: str, log: LogFile) -> "Iterator[SparkSession]":
    """The session that the flags of a `session_parser` ask for."""
    from mfspark.engine.session import open_session

    with open_session(app_name, log.stream, options.remote, options.ship) as spark:
        yield spark


def job_parser(description: str) -> Parser:
    """A parser with the flags of everything that logs."""
    codes = "; ".join(f"{code} {meaning}" for code, meaning in exit_codes().items())
    parser = Parser(description=description, epilog=f"Exit codes: {codes}.")
    parser.add_argument(
        "--log-format", choices=["text", "json"], default="text",
        help="lines on stderr: text, with a progress bar on a terminal, or JSON like Spark's structured log",
    )  # fmt: skip
    return parser


def _run(options: argparse.Namespace, log: LogFile, steps: list[str]) -> None:
    config = load_config(options.config, options.overrides)
    # Imported late, so that a wrong flag or configuration is reported before Spark loads.
    from mfspark.batch.pipeline import require_trainable, run_steps
    from mfspark.storage.runs import open_run
    from mfspark.tracking.mlflow import logged_to_mlflow
    from mfspark.tracking.openmetrics import exported_as_openmetrics
    from mfspark.tracking.tracked import require_trackable

    require_trackable(config.track)
    require_trainable(config)
    run_id = _run_id(options)
    begins = steps[0] == "ingest"
    mode = _mode(options) if begins else "repeat" if options.overwrite else "continue"
    with (
        exported_as_openmetrics(config) as exported,
        session(options, f"mfspark {run_id}", log) as spark,
        locked(spark, config.output, run_id) as lock,
    ):
        run = exported.run = open_run(spark, config, run_id, mode, lock)
        log.folder = run.local_folder
        with logged_to_mlflow(config.track, run):
            if options.overwrite:
                run.forget_from(steps[0])
            run_steps(config, run, steps)


def _tune(options: argparse.Namespace, log: LogFile) -> None:
    config = load_study_config(options.config, options.overrides)
    from mfspark.batch.tuning import require_tunable, run_study
    from mfspark.storage.runs import open_run

    require_tunable(config)
    # On the console, the lines of each training would hide those of the trials; the log file has both.
    logger.handlers[0].addFilter(
        lambda record: not record.name.startswith(("mfspark.training.", "mfspark.blocks.", "mfspark.serving."))
    )
    run_id, study = _run_id(options), config.of_study()
    with (
        session(options, f"mfspark tune {run_id}", log) as spark,
        locked(spark, study.output, run_id) as lock,
    ):
        run = open_run(spark, study, run_id, _mode(options), lock)
        log.folder = run.local_folder
        run_study(config, run)


def _roll_back(options: argparse.Namespace, log: LogFile) -> None:
    config = load_config(options.config, options.overrides)
    from mfspark.storage.catalog import replace_all
    from mfspark.storage.rollback import roll_back
    from mfspark.storage.runs import catalogs_of

    with session(options, "mfspark rollback", log) as spark, locked(spark, config.output, "rollback") as lock:
        catalogs = catalogs_of(spark, lock.files, config.output)
        for catalog in catalogs:
            catalog.require_replaceable()
        done = roll_back(spark, lock, config.output.path, options.run_id)
        logger.info("CURRENT now names run %s; before, it named %s", done.now.name, done.before)
        if done.withdrawn:
            logger.info(
                "withdrawn: %s; to publish one of them again, pass its --run-id to this job", ", ".join(done.withdrawn)
            )
        if done.now.has_table("ratings"):
            logger.info("the next incremental run starts from the ratings of run %s", done.now.name)
        else:
            logger.info(
                "the next incremental run reads the whole input: run %s no longer has its ratings", done.now.name
            )
        replace_all(catalogs)


def _run_id(options: argparse.Namespace) -> str:
    from mfspark.storage.runs import new_run_id, require_run_id

    if options.run_id is None:
        options.run_id = new_run_id()
    require_run_id(options.run_id)
    return str(options.run_id)


@contextmanager
def locked(spark: "SparkSession", output: "OutputConfig", name: str) -> "Iterator[OutputLock]":
    """Hold the lock of an output, and release it also when a signal stops the job."""
    from mfspark.engine.session import hand_on_signals
    from mfspark.storage.lock import lock_output

    catch_signals_again()
    hand_on_signals(spark)
    with lock_output(spark, output.path, name, single_writer=output.single_writer) as lock:
        yield lock


def _mode(options: argparse.Namespace) -> "OpenMode":
    """How a job that starts a run opens the run, from its flags."""
    return "resume" if options.resume else "overwrite" if options.overwrite else "new"


def _start_logging(log_format: LogFormat) -> LogFile:
    """Log progress to the console, and everything with tracebacks to a file."""
    log = LogFile(log_format)
    logger.handlers = [console_handler(log_format, sys.stderr), log.handler]
    logger.setLevel(logging.DEBUG)
    # Spark warns of pandas 3 when it is imported. mfspark moves its data as Arrow and uses nothing of pandas.
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
    # Without a handler on the root logger, py4j would print a traceback when a signal breaks off a call.
    logging.getLogger().addHandler(logging.NullHandler())
    return log


def _report(message: str, exit_code: int, log: LogFile, log_format: LogFormat) -> int:
    logger.debug("failed with exit code %d", exit_code, exc_info=True)
    logger.removeHandler(log.handler)
    line = f"mfspark: {_one_line(message)} (log: {log.close()})"
    if log_format == "json":
        logger.error(line, exc_info=True, extra={"context": {"exit_code": exit_code}})
    else:
        for handler in logger.handlers:  # removes the progress bar, which would share the line
            handler.close()
        print(line, file=sys.stderr)
    return exit_code


def _one_line(message: str) -> str:
    return " ".join(message.split())
