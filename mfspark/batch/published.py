"""What readers of an output find: the tables of a published run, and its model. Runs on the driver."""

from pyspark.sql import DataFrame, SparkSession

from mfspark.batch.pipeline import estimator_of, factors_of
from mfspark.config.checking import checked
from mfspark.config.sections import ListLayout, PipelineConfig
from mfspark.engine.files import FileStore
from mfspark.errors import ConfigError, OutputError
from mfspark.ml.model import ALSModel
from mfspark.storage.metrics import published_course
from mfspark.storage.retention import current_name
from mfspark.storage.runs import FACTORS, PublishedRun, published_run


def open_published(spark: SparkSession, output: str, run: str | None = None) -> PublishedRun:
    """A complete run of an output.

    output : `output.path` of the configuration
    run : name of its folder; None: the one that CURRENT names

    Raises
    ------
    OutputError    there is no such run, or it is not complete
    """
    output = output.rstrip("/")
    name = run or current_name(FileStore(spark, output), output)
    if name is None:
        raise OutputError(f"'{output}' has no published run: no file CURRENT; correct the path, or run the pipeline")
    found = published_run(spark, FileStore(spark, output), output, name)
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
    if not found.has_table(table):
        tables = ", ".join(sorted(found.manifest["tables"]))
        raise ConfigError(f"run '{found.name}' has no table '{table}'; found {tables}")
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
