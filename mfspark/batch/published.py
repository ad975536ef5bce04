"""What readers of an output find: the tables of a published run, its model and its report. Runs on the driver."""

import logging

from pyspark.sql import DataFrame, SparkSession

from mfspark.batch.pipeline import estimator_of, factors_of, published_model
from mfspark.batch.report import MISSING, has_library, report_page
from mfspark.config.checking import checked
from mfspark.config.sections import ListLayout, PipelineConfig
from mfspark.engine.files import FileStore
from mfspark.errors import ConfigError, OutputError
from mfspark.ml.model import ALSModel
from mfspark.storage.metrics import published_course
from mfspark.storage.retention import MANIFEST, current_name, published_ends
from mfspark.storage.runs import FACTORS, PublishedRun, published_run
from mfspark.storage.source import ratings_of, read_files, read_source
from mfspark.storage.table_versions import at_version, version_read
from mfspark.tables.evaluate import cached
from mfspark.tables.ingest import accepted_ratings, merge_duplicates, require_rating_schema
from mfspark.tables.split import PARTS

logger = logging.getLogger(__name__)


def open_published(spark: SparkSession, output: str, run: str | None = None) -> PublishedRun:
    """A complete run of an output.

    output : `output.path` of the configuration
    run : name of its folder; None: the one that CURRENT names

    Raises
    ------
    OutputError    there is no such run, or it is not complete
    """
    output = output.rstrip("/")
    files = FileStore(spark, output)
    name = run or current_name(files, output)
    if name is None:
        raise OutputError(f"'{output}' has no published run: no file CURRENT; correct the path, or run the pipeline")
    found = published_run(spark, files, output, name)
    files.require_seen(f"{found.folder}/{MANIFEST}")
    if found.manifest["status"] != "complete":
        raise OutputError(f"run '{name}' in '{output}' is {found.manifest['status']}; expected a complete run")
    return found


def read(spark: SparkSession, output: str, table: str, run: str | None = None) -> DataFrame:
    """A table of the run that readers should use now: "recommendations", "user_factors", "item_factors".

    Recommendations have the layout of `recommend.layout`.

    output, run : as for `open_published`. All tables of one call of a program should come from one run: name it, or
    take `open_published(…).read_table`

    Raises
    ------
    OutputError    there is no such run
    ConfigError    the run has no such table
    """
    found = open_published(spark, output, run)
    _require_table(found, table)
    return found.read_table(table)


def config_of(run: PublishedRun, layout: ListLayout | None = None) -> PipelineConfig:
    """The configuration of a run.

    layout : of recommendations, instead of the one that the run has
    """
    content = run.manifest["config"]
    if layout is not None:
        content = content | {"recommend": content["recommend"] | {"layout": layout}}
    return checked(PipelineConfig, content)


def load(output: str, run: str | None = None, spark: SparkSession | None = None) -> ALSModel:
    """The model that a run has published; it predicts, recommends, folds in and explains.

    Its column names are those of the input of the run.

    output, run : as for `open_published`
    spark : default: the active session

    Raises
    ------
    OutputError    there is no such run
    """
    return model_of(open_published(spark or SparkSession.active(), output, run))


def model_of(run: PublishedRun) -> ALSModel:
    """The model of a published run; see `load`."""
    config = config_of(run)
    columns = config.columns
    estimator = estimator_of(config).setUserCol(columns.user).setItemCol(columns.item).setRatingCol(columns.rating)
    if columns.weight is not None:
        estimator = estimator.setWeightCol(columns.weight)
    return estimator.model_of(*factors_of(config, run, FACTORS), published_course(run.metrics)["global_mean"])


def published_report(spark: SparkSession, output: str, run: str | None = None) -> str:
    """The report of a run, made anew as one HTML page; it compares with the run that was published before it.

    Ratings that the run has not kept are read from its input again.

    output, run : as for `open_published`

    Raises
    ------
    OutputError    there is no such run
    ConfigError    the extra `report` is not installed, or the run has no recommendations, such as that of a study
    DataError      the input cannot be read any more
    """
    if not has_library():
        raise ConfigError(f"cannot make the report: {MISSING}")
    found = open_published(spark, output, run)
    _require_table(found, "recommendations")
    config = config_of(found)
    output, files = output.rstrip("/"), FileStore(spark, output)
    earlier = [end.name for end in published_ends(files, output) if end.status == "complete"]
    before = earlier[: earlier.index(found.name)]
    current = published_run(spark, files, output, before[-1]) if before else None
    with cached(_ratings_of_run(config, found)) as ratings:
        n_then, n_now = sum(found.metrics["rows"][part] for part in PARTS), ratings.count()
        if n_then != n_now:
            logger.warning(
                "the input has %d ratings now, it had %d when run %s read it: charts of the ratings show those of now",
                n_now, n_then, found.name,
            )  # fmt: skip
        return report_page(config, found, published_model(config, found), ratings, current)


def _ratings_of_run(config: PipelineConfig, run: PublishedRun) -> DataFrame:
    """The ratings that a run has kept, as an incremental run does; else those of what it read."""
    if run.has_table("ratings"):
        return run.read_table("ratings")
    rows = read_source(run.spark, at_version(config.input, version_read(run.manifest)))
    if config.input.compares_files:
        rows = read_files(rows, config.input, list(run.manifest["input_files"]))
    raw = ratings_of(rows, config.input)
    require_rating_schema(raw, config.columns)
    return merge_duplicates(accepted_ratings(raw, config.columns), config.input.duplicates)


def _require_table(run: PublishedRun, table: str) -> None:
    if not run.has_table(table):
        tables = ", ".join(sorted(run.manifest["tables"]))
        raise ConfigError(f"run '{run.name}' has no table '{table}'; found {tables}")
