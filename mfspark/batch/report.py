"""The report of a run: its tables and metrics as one page, report.html. Runs on the driver."""

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.config.sections import PipelineConfig
from mfspark.engine.jobs import named_jobs
from mfspark.ml.model import ALSModel
from mfspark.storage.runs import PublishedRun, Run
from mfspark.storage.source import read_source
from mfspark.tables.columns import column
from mfspark.tables.lists import nested
from mfspark.tracking.progress import progress_logged

if TYPE_CHECKING:  # an extra
    from mfspark.report.collect import Collected

logger = logging.getLogger(__name__)

REPORT = "report.html"
MISSING = "its library is not installed; pip install 'mfspark[report]'"
"""Why there is no report where `has_library` is false."""


def has_library() -> bool:
    """Whether the extra `report` is installed."""
    return find_spec("jinja2") is not None


def write_report(config: PipelineConfig, run: Run, model: ALSModel) -> None:
    """All tables and metrics → report.html. If the report fails or a library is missing, the run goes on without."""
    if not has_library():
        logger.info("no %s: %s", REPORT, MISSING)
        return
    try:
        run.write_text(REPORT, report_page(config, run, model, run.read_table("ratings"), run.current()))
    except Exception as error:
        logger.warning("no %s: %s", REPORT, _first_line(error))
        logger.debug("the report failed", exc_info=True)


def report_page(
    config: PipelineConfig, run: Run | PublishedRun, model: ALSModel, ratings: DataFrame, current: PublishedRun | None
) -> str:
    """The report of a complete run as one HTML page.

    model : of the published factors, for pairs of user_id and item_id
    ratings : user_id, item_id, rating; all that the run has accepted
    current : the run that CURRENT named before this one, to compare with

    Cost: six aggregations of the ratings.
    """
    from mfspark.report.collect import collect
    from mfspark.report.facts import RunFacts
    from mfspark.report.page import page

    def entries(entry: Column) -> Column:
        return F.struct(entry[config.columns.item].alias("item_id"), entry["score"].alias("score"))

    with named_jobs(run.spark, "report: collect", group="report"), progress_logged(run.spark, "report"):
        lists = nested(run.read_table("recommendations"), config.columns.user, config.columns.item)
        recommendations = lists.select(
            column(config.columns.user).alias("user_id"),
            F.transform("recommendations", entries).alias("recommendations"),
        )
        tables = _with_item_names(config, run, collect(ratings, model, recommendations))
    known = (current.name, current.metrics) if current else None
    settings = config.changes_since(current.manifest["config"]) if current else {}
    return page(RunFacts(run.manifest["run_id"], run.manifest, run.metrics, known, settings), tables)


def _with_item_names(config: PipelineConfig, run: Run | PublishedRun, tables: "Collected") -> "Collected":
    """What the report shows, with the names of the items; with their ids if the table of names cannot be used."""
    from mfspark.report.collect import with_item_names

    names = config.report.item_names
    if names is None:
        return tables
    try:
        return with_item_names(tables, read_source(run.spark, names), (names.id, names.name))
    except Exception as error:
        logger.warning("report.html shows ids of items, no names: %s", _first_line(error))
        return tables


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
