"""Read this first: the pipeline, one function per step, in order.

Each step reads the tables of one run and writes its own; `run_steps` publishes the run when all steps are done.
"""

import logging
from dataclasses import asdict
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from mfspark.batch.gate import judge, require_not_held
from mfspark.batch.incremental import has_same_factors, rows_to_read
from mfspark.batch.report import write_report
from mfspark.batch.words import lists_in_words, metrics_in_words, rows_in_words
from mfspark.config.sections import PipelineConfig
from mfspark.engine.failures import cluster_failures_are
from mfspark.errors import ConfigError, OutputError, TrainingError
from mfspark.ml.estimators import ALS, SGD, ALSModel
from mfspark.serving.fallback import count_lists, filled_with_popular
from mfspark.serving.recommend import recommend_popular
from mfspark.storage.metrics import published_course
from mfspark.storage.runs import CHECKPOINT, FACTORS, JUDGED_FACTORS, KEPT_FOR_INCREMENTS, PublishedRun, Run
from mfspark.storage.source import read_source
from mfspark.storage.tables import unreadable_input_is_data_error
from mfspark.tables.baselines import add_mean_and_biases, count_ratings
from mfspark.tables.evaluate import Metrics, cached, list_metrics, lists_of, rating_metrics, relevant_items
from mfspark.tables.ingest import (
    accepted_ratings,
    count_by_reason,
    merge_duplicates,
    rejected_rows,
    require_acceptable,
    require_rating_schema,
)
from mfspark.tables.lists import ListWriter, columns_of_items, nested
from mfspark.tables.split import PART, PARTS, SplitColumns, assign_parts, require_usable_folds
from mfspark.tracking.progress import progress_logged
from mfspark.training.factor_tables import FactorTable

logger = logging.getLogger(__name__)

IS_VALIDATION = "is_validation"
"""Flag column: the estimator validates on these ratings and does not train on them."""

_ACCEPTED = SplitColumns("user_id", "item_id", "timestamp", "fold")


def ingest(config: PipelineConfig, run: Run) -> None:
    """The input → rejected_ratings, and ratings split into train, validation and holdout.

    An incremental run reads only what is new since its base run, and takes the other ratings from that run.
    """
    rows = rows_to_read(config, run)
    if rows is None:
        run.end_unpublished("unchanged")
        return
    raw = rows.raw
    require_rating_schema(raw, config.columns)
    with unreadable_input_is_data_error():
        counts = count_by_reason(raw, config.columns)
        rejected = rejected_rows(raw, config.columns)
        # Without rejected rows the table is empty; write it without a second scan of the input.
        run.write_table("rejected_ratings", rejected if counts.keys() - {None} else rejected.limit(0))
        require_acceptable(counts, config.input.max_rejected_share, rows.n_carried)
        known = rows.with_carried(accepted_ratings(raw, config.columns))
        require_usable_folds(known, config.split, _ACCEPTED)
        ratings = merge_duplicates(known, config.input.duplicates)
        run.write_table("ratings", assign_parts(ratings, config.split, _ACCEPTED), partition_by=PART)
    if config.recommend.items is not None:  # a table that cannot be used fails the run before training
        list_writer(config, run.spark, run.name, ratings.schema["item_id"].dataType)
    run.metrics["rows"] = _count_rows(counts, rows.n_carried, run.read_table("ratings"))
    logger.info("ingested %s", rows_in_words(run.metrics["rows"]), extra={"context": run.metrics["rows"]})


def train(config: PipelineConfig, run: Run) -> None:
    """Ratings → user_factors and item_factors that know all ratings, and the loss of every iteration.

    The holdout is judged by factors that do not know it. Where there is one, these are tables of their own, and the
    published factors are refitted from them: training goes on, for a few iterations, with every rating.
    """
    ratings = run.read_table("ratings")
    estimator = estimator_of(config).setCheckpointPath(run.path(f"{CHECKPOINT}/train"))
    base = run.base
    if base is not None and has_same_factors(config, base):
        estimator = estimator.setInitialModel(_judged_model(config, base))
        if config.train.warm_max_iter is not None:
            estimator = estimator.setMaxIter(config.train.warm_max_iter)
    known = ratings.where(F.col(PART) != "holdout").withColumn(IS_VALIDATION, F.col(PART) == "validation")
    model = judged = estimator.fit(known)
    run.metrics["training"] = _course(model, ["train"])
    if config.train.refit and any(run.metrics["rows"][part] for part in PARTS[1:]):
        _write_factors(config, run, JUDGED_FACTORS, model)
        refit = estimator_of(config, judges=False).setCheckpointPath(run.path(f"{CHECKPOINT}/refit"))
        refit = refit.setInitialModel(model).setMaxIter(refit_iterations(refit.getMaxIter()))
        logger.info("refit: %d iterations with all ratings, from the factors above", refit.getMaxIter())
        model = refit.fit(ratings)
        run.metrics["refit"] = _course(model, list(PARTS))
    _write_factors(config, run, FACTORS, model)
    for factors in (*judged.factorTables, *model.factorTables):
        factors.batches.drop()  # what wide sides keep on the executors


def refit_iterations(max_iter: int) -> int:
    """Iterations with all ratings after which the objective is at most 0.1 % above that of a fit from random factors.

    Measured by scripts/bench_refit.py.
    """
    return max(3, -(-max_iter // 4))


def recommend(config: PipelineConfig, run: Run) -> None:
    """Factors → recommendations: the best N items of every user, without all that the user has rated."""
    ratings, n = run.read_table("ratings"), config.recommend.n
    seen = ratings if config.recommend.drop_seen else None
    lists = published_model(config, run).recommendForAllUsers(n, seen)
    everyone = ratings.select("user_id").distinct()
    if config.recommend.fallback == "popular":
        with cached(lists) as own:
            _write_lists(config, run, filled_with_popular(own, everyone, count_ratings(ratings), n, seen))
    else:
        _write_lists(config, run, lists)
    knows_all = set(published_course(run.metrics)["parts"]) >= {part for part in PARTS if run.metrics["rows"][part]}
    n_users = published_course(run.metrics)["users"] if knows_all else everyone.count()
    run.metrics["lists"] = count_lists(lists_of_run(config, run), n, n_users)
    logger.info("lists: %s", lists_in_words(run.metrics["lists"]), extra={"context": run.metrics["lists"]})


def _write_lists(config: PipelineConfig, run: Run, lists: DataFrame) -> None:
    id_type = run.read_table("ratings").schema["item_id"].dataType
    writer = list_writer(config, run.spark, run.name, id_type)
    run.write_table("recommendations", writer.table(lists, "user_id", "item_id"))


def list_writer(config: PipelineConfig, spark: SparkSession, run: str, item_id_type: DataType) -> ListWriter:
    """What makes the table of recommendations of a run.

    run : name of its folder

    Raises
    ------
    InputError    the table of recommend.items cannot be used
    """
    columns, source = config.columns, config.recommend.items
    items = None
    if source is not None:
        items = columns_of_items(read_source(spark, source), source.id, source.columns, item_id_type, source.section)
    return ListWriter(columns.user, columns.item, config.recommend.layout, run, items)


def evaluate(config: PipelineConfig, run: Run) -> None:
    """Holdout ratings → error of predictions and quality of recommendations, for the model and for baselines.

    Judged are the factors that do not know the holdout, and lists that leave out only what these know. Of implicit
    feedback, positive ratings are what recommendations should find, and there is no error: predictions are
    preferences, not ratings.
    """
    if not run.metrics["rows"]["holdout"]:
        run.metrics["holdout"] = {"n_pairs": 0, "n_unknown": 0, "rmse": None, "mae": None}
        run.metrics["baselines"] = {}
        return
    ratings = run.read_table("ratings")
    train_ratings, holdout = (ratings.where(F.col(PART) == part) for part in ("train", "holdout"))
    seen = ratings.where(F.col(PART) != "holdout") if config.recommend.drop_seen else None
    model = _judged_model(config, run)
    predictions = model.transform(holdout)
    baselines: dict[str, Metrics] = {}
    if config.train.implicit_prefs:
        (metrics,) = rating_metrics(predictions)
        metrics |= {"rmse": None, "mae": None}
    else:
        predictions = add_mean_and_biases(predictions, train_ratings, "baseline")
        metrics, baselines["mean_and_biases"] = rating_metrics(predictions, ["prediction", "baseline"])
    n = config.recommend.n
    lists = lists_of(model.recommendForAllUsers(n, seen), "user_id", "item_id")
    with cached(count_ratings(train_ratings)) as counted:
        left_out = None if seen is None else seen.select(F.col("user_id").alias("id"), "item_id")
        popular = recommend_popular(model.userFactors.select("id"), counted, n, left_out)
        relevant = relevant_items(holdout, are_positive_only=config.train.implicit_prefs)
        judged = list_metrics({"model": lists, "popularity": lists_of(popular, "id", "id")}, relevant, counted, n)
    metrics |= judged["model"]
    baselines["popularity"] = judged["popularity"]
    run.metrics["holdout"], run.metrics["baselines"] = metrics, baselines
    clipped = "" if config.train.clip is None else " (predictions clipped to {} … {})".format(*config.train.clip)
    words = metrics_in_words(metrics, baselines)
    logger.info("holdout%s: %s", clipped, words, extra={"context": {**metrics, "baselines": baselines}})


def require_trainable(config: PipelineConfig) -> None:
    """Raise ConfigError if training settings do not work together. Needs no Spark session."""
    estimator_of(config).require_valid()


def estimator_of(config: PipelineConfig, *, judges: bool = True) -> ALS | SGD:
    """The estimator, with the parameters that a configuration gives it.

    judges : whether it judges each iteration by the validation ratings, where there are such, and stops early by that
    """
    is_sgd = config.train.algorithm == "sgd"
    settings = config.train.of_algorithm() | (asdict(config.sgd) if is_sgd else {})
    parameters: dict[str, Any] = {_camel_case(key): value for key, value in settings.items() if value is not None}
    parameters |= {"userCol": "user_id", "itemCol": "item_id", "ratingCol": "rating"}
    estimator: ALS | SGD = (SGD if is_sgd else ALS)(**parameters)
    if config.columns.weight is not None:
        estimator = estimator.setWeightCol("weight")
    if not judges:
        return estimator.setPatience(0)
    return estimator.setValidationIndicatorCol(IS_VALIDATION) if config.split.has_validation else estimator


STEPS = {"ingest": ingest, "train": train, "recommend": recommend, "evaluate": evaluate}
"""All steps, in order."""


def run_steps(config: PipelineConfig, run: Run, names: list[str]) -> None:
    """Run the named steps that are not done yet; publish the run once every step is done.

    Raises
    ------
    ConfigError    a step before a named one is not done, or a view or table of output cannot be replaced
    GateError      the run is complete, but too much worse than the current one
    OutputError    the run is published, but a view or table of a catalog could not be replaced
    """
    for catalog in run.catalogs:
        catalog.require_replaceable()
    if run.is_published:
        logger.info("run %s is already published; nothing to do", run.run_id)
        run.update_catalogs()
        return
    for name in [] if run.is_unchanged else names:
        if run.is_done(name):
            logger.info("%s: done by an earlier attempt", name)
            continue
        logger.info("%s: started", name, extra={"context": {"step": name}})
        with (
            run.step(name),
            progress_logged(run.spark, name),
            cluster_failures_are(TrainingError if name == "train" else OutputError),
        ):
            _require_earlier_steps(run, name)
            STEPS[name](config, run)
        if run.is_unchanged:
            break
        if run.is_done("train"):
            run.drop(CHECKPOINT)
    if run.is_unchanged:
        logger.info("run %s: nothing is new since run %s; nothing to publish", run.run_id, run.manifest["base"])
        run.update_catalogs()
    elif all(run.is_done(name) for name in STEPS):
        _publish(config, run)


def _publish(config: PipelineConfig, run: Run) -> None:
    """Judge a complete run and report on it; unless it is held, hand it to the readers, less what only it needed."""
    judge(config, run)
    if config.output.report and "ratings" in run.manifest["tables"]:  # else an earlier attempt has written it
        write_report(config, run, published_model(config, run))
    require_not_held(run)
    if not config.input.incremental:  # else the next run goes on from them
        for table in KEPT_FOR_INCREMENTS:
            run.drop(table)
    run.publish()
    where = {"run_id": run.run_id, "folder": run.folder}
    logger.info("published run %s in %s", run.run_id, run.folder, extra={"context": where})


def _require_earlier_steps(run: Run, name: str) -> None:
    order = list(STEPS)
    for earlier in order[: order.index(name)]:
        if not run.is_done(earlier):
            raise ConfigError(f"run '{run.run_id}' cannot {name} yet: step {earlier} is not done; run that step first")


def _camel_case(key: str) -> str:
    """The estimator's name for a setting."""
    first, *others = key.split("_")
    return first + "".join(word.capitalize() for word in others)


def _write_factors(config: PipelineConfig, run: Run, tables: tuple[str, str], model: ALSModel) -> None:
    for table, factors, name in zip(tables, (model.userFactors, model.itemFactors), _id_names(config), strict=True):
        run.write_table(table, factors.withColumnRenamed("id", name))


def published_model(config: PipelineConfig, run: Run | PublishedRun) -> ALSModel:
    """The model of the published factors."""
    return estimator_of(config).model_of(
        *factors_of(config, run, FACTORS), published_course(run.metrics)["global_mean"]
    )


def _judged_model(config: PipelineConfig, run: Run | PublishedRun) -> ALSModel:
    """The model that does not know the holdout; without a refit it is the published one."""
    tables = JUDGED_FACTORS if "refit" in run.metrics else FACTORS
    return estimator_of(config).model_of(*factors_of(config, run, tables), run.metrics["training"]["global_mean"])


def factors_of(
    config: PipelineConfig, run: Run | PublishedRun, tables: tuple[str, str]
) -> tuple[FactorTable, FactorTable]:
    """Factors of users and items from two tables of a run."""
    users, items = (
        FactorTable.of(run.read_table(table).withColumnRenamed(name, "id"))
        for table, name in zip(tables, _id_names(config), strict=True)
    )
    return users, items


def lists_of_run(config: PipelineConfig, run: Run | PublishedRun) -> DataFrame:
    """The recommendations of a run, nested: user, recommendations array<struct<item, score, …>>, best first."""
    return nested(run.read_table("recommendations"), *_id_names(config))


def _id_names(config: PipelineConfig) -> tuple[str, str]:
    return config.columns.user, config.columns.item


def _course(model: ALSModel, parts: list[str]) -> dict[str, Any]:
    """The course of a training on these parts of the ratings, for metrics.json."""
    summary = model.summary
    return {
        "parts": parts,
        "users": summary.n_users,
        "items": summary.n_items,
        "iterations": [
            asdict(record) | {"penalty": record.penalty, "objective": record.objective} for record in summary.history
        ],
        "stop_reason": summary.stop_reason,
        "best_iteration": summary.best_iteration,
        "global_mean": summary.global_mean,
        "engine": summary.engine,
        "seconds": summary.seconds,
    }


def _count_rows(counts: dict[str | None, int], n_carried: int, ratings: DataFrame) -> dict[str, Any]:
    parts = {row[PART]: row["count"] for row in ratings.groupBy(PART).count().collect()}
    accepted = counts.get(None, 0)
    return {
        "read": sum(counts.values()),
        "rejected": {reason: count for reason, count in counts.items() if reason},
        "carried": n_carried,
        "merged_duplicates": n_carried + accepted - sum(parts.values()),
        **{part: parts.get(part, 0) for part in PARTS},
    }
