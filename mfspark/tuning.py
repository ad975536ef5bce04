"""Tuning: train with many settings, judge each by ratings that it was not trained on, write the best down.

A study is a run in an output of its own, <output.path>/tuning: what holds of runs holds of it, resumption for one. It
never looks at the holdout.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import groupby, pairwise, product
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark.cluster import cluster_failures_are
from mfspark.config import PipelineConfig, Range, StudyConfig, checked
from mfspark.errors import ConfigError, MfsparkError, OutputError, TrainingError
from mfspark.model import ALSModel
from mfspark.pipeline import estimator_of, ingest
from mfspark.recommendation import ALS, SGD, SharedFits
from mfspark.stages.evaluate import lists_of, ranking_metrics, rating_metrics, relevant_items
from mfspark.stages.split import PART, SplitColumns, fold_of
from mfspark.storage.runs import Run

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

TRIALS, BEST = "trials", "best.toml"
_JOURNAL = "trials.json"
"""The trials so far, for a study that is resumed."""
_JUDGED = "is_validation"
_REGULARIZATION = "train.reg_param"


@dataclass(frozen=True)
class Outcome:
    """What one fold of a trial came to after some iterations."""

    trial: int
    """Trials, folds and rungs count from 1."""
    fold: int
    rung: int
    iterations: int
    """That the model has had."""
    value: float | None
    """Of the metric; None where the trial failed."""
    seconds: float
    """Of training, since the outcome before it, and judging."""
    state: Literal["complete", "pruned", "failed"] = "complete"
    """Of the trial; one that is pruned was given up for better ones."""
    reason: str | None = None
    """Why the trial failed."""


class Candidate(NamedTuple):
    """The settings of one trial."""

    trial: "optuna.Trial"
    config: PipelineConfig
    estimator: ALS | SGD
    rungs: list[int]
    """After how many iterations it is judged, ascending."""

    @property
    def number(self) -> int:
        """Of the trial, from 1 on."""
        return int(self.trial.number) + 1


class Fold(NamedTuple):
    """Ratings to train on and, where is_validation, to judge by."""

    ratings: DataFrame
    fits: SharedFits


def require_tunable(config: StudyConfig) -> None:
    """Raise ConfigError where a library is missing, or settings have no meaning together. Needs no Spark session."""
    if find_spec("optuna") is None or find_spec("tomli_w") is None:
        raise ConfigError("tuning needs optuna and tomli-w, which are not installed; pip install 'mfspark[tune]'")
    _candidates(config, _new_study(config))


def run_study(config: StudyConfig, run: Run) -> None:
    """Fill and publish a study, which `open_run` has opened for `config.of_study()`.

    Raises
    ------
    TrainingError    every trial has failed
    """
    if run.is_published:
        logger.info("study %s is published: nothing left to do", run.run_id)
        return
    if not run.is_done("ingest"):
        with run.step("ingest"), cluster_failures_are(OutputError):
            ingest(config.of_study(), run)
    if not run.is_done("tune"):
        with run.step("tune"), cluster_failures_are(TrainingError):
            tune(config, run)
    run.drop("ratings")
    run.drop(_JOURNAL)
    run.publish(config.output.keep_runs)
    logger.info("published study %s in %s", run.run_id, run.folder, extra={"context": {"run_id": run.run_id}})


def tune(config: StudyConfig, run: Run) -> None:
    """Ratings → trials, and best.toml: the configuration of a run with the settings of the best.

    Each training uses the whole cluster, so trials run one after the other. The blocks of every fold are made once for
    all trials that need the same, and kept until the end. With halving, a trial goes on from its own factors from rung
    to rung, until at one of them too many others were better (Li et al., MLSys 2020, section 3). A grid whose trainings
    end by `train.tol` goes from much regularization to little, each trial from the factors of the one before.
    """
    study = _new_study(config)
    candidates = _candidates(config, study)
    outcomes = [Outcome(**known) for known in json.loads(run.read_text(_JOURNAL) or "[]")]
    known = {number: list(found) for number, found in groupby(outcomes, lambda outcome: outcome.trial)}
    with ExitStack() as cached, _only_own_lines():
        folds = _folds(config, run, candidates)
        for fold in folds:
            cached.callback(fold.fits.close)
        models: list[ALSModel | None] = []
        for before, candidate in zip([None, *candidates[:-1]], candidates, strict=True):
            if candidate.number in known:
                _try_again(config, candidate, known[candidate.number])
                _tell(config, study, candidate, known[candidate.number])
                continue
            if not (models and before and _is_next_on_path(config, before, candidate)):
                models = [None] * len(folds)
            found = _try(config, candidate, folds, models)
            _tell(config, study, candidate, found)
            outcomes += found
            run.write_text(_JOURNAL, json.dumps([asdict(outcome) for outcome in outcomes]))
            _log_trial(config, study, candidate, found[-1])
    if all(outcome.state == "failed" for outcome in outcomes):
        raise TrainingError(f"every trial has failed, the first with: {outcomes[0].reason}; mend tune.space")
    run.write_table(TRIALS, _table(run.spark, outcomes, candidates))
    best = candidates[study.best_trial.number]
    run.write_text(BEST, _toml(best.config))
    run.metrics["tuning"] = {
        "metric": config.tune.metric,
        "trials": len(candidates),
        "best_trial": best.number,
        "best_value": study.best_value,
        "best_settings": best.trial.params,
    }


def _new_study(config: StudyConfig) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if config.tune.method == "halving":
        pruner = optuna.pruners.SuccessiveHalvingPruner(config.tune.least_iterations, config.tune.reduction)
    study = optuna.create_study(
        direction="minimize" if config.tune.is_error else "maximize",
        sampler=optuna.samplers.RandomSampler(config.tune.seed),
        pruner=pruner,
    )
    if config.tune.method == "grid":
        for combination in product(*_by_regularization(config.tune.settings)):
            study.enqueue_trial(dict(combination))
    return study


def _by_regularization(settings: dict[str, Any]) -> list[list[tuple[str, Any]]]:
    """The choices of each setting, those of regularization last, which then varies first, and falling."""
    falling = {
        name: sorted(choice, reverse=True) if name == _REGULARIZATION else choice for name, choice in settings.items()
    }
    names = sorted(falling, key=lambda name: name == _REGULARIZATION)
    return [[(name, value) for value in falling[name]] for name in names]


def _is_next_on_path(config: StudyConfig, before: Candidate, candidate: Candidate) -> bool:
    """Whether a candidate starts from the models of the one before: where both train until they have converged.

    Else the better start would show in what is judged, and no run would have it.
    """
    changed = [name for name, value in candidate.trial.params.items() if before.trial.params[name] != value]
    return config.tune.method == "grid" and candidate.config.train.tol > 0 and changed == [_REGULARIZATION]


def _candidates(config: StudyConfig, study: "optuna.Study") -> list[Candidate]:
    """All trials, drawn beforehand: none depends on what came of another."""
    candidates = []
    for _ in range(config.tune.n_trials):
        trial = study.ask()
        tree = config.of_run()
        for name, choice in config.tune.settings.items():
            section, _, key = name.partition(".")
            tree[section][key] = _suggest(trial, name, choice)
        settings = checked(PipelineConfig, tree)
        estimator = estimator_of(settings).setValidationIndicatorCol(_JUDGED)
        estimator.require_valid()
        candidates.append(Candidate(trial, settings, estimator, _rungs(config, settings.train.max_iter)))
    return candidates


def _suggest(trial: "optuna.Trial", name: str, choice: Range | list[Any]) -> Any:
    if not isinstance(choice, Range):
        return trial.suggest_categorical(name, choice)
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return trial.suggest_int(name, choice.low, choice.high, log=choice.log)
    return trial.suggest_float(name, choice.low, choice.high, log=choice.log)


def _rungs(config: StudyConfig, max_iter: int) -> list[int]:
    if config.tune.method != "halving":
        return [max_iter]
    rungs = [config.tune.least_iterations]
    while rungs[-1] < max_iter:
        rungs.append(min(rungs[-1] * config.tune.reduction, max_iter))
    return rungs


def _folds(config: StudyConfig, run: Run, candidates: list[Candidate]) -> list[Fold]:
    ratings = run.read_table("ratings").where(F.col(PART) != "holdout")
    if config.tune.folds == 1:
        are_judged = [F.col(PART) == "validation"]
    else:
        number = fold_of(config.tune.folds, config.tune.seed, SplitColumns("user_id", "item_id"))
        are_judged = [number == fold for fold in range(config.tune.folds)]
    tables = [ratings.withColumn(_JUDGED, is_judged) for is_judged in are_judged]
    return [Fold(table, SharedFits(table, [candidate.estimator for candidate in candidates])) for table in tables]


def _try(config: StudyConfig, candidate: Candidate, folds: list[Fold], models: list[ALSModel | None]) -> list[Outcome]:
    """Train and judge in every fold, rung by rung; what each came to, in this order.

    models : of each fold, what training starts from; then what it has ended with
    """
    found: list[Outcome] = []
    try:
        for rung, (before, until) in enumerate(pairwise([0, *candidate.rungs]), 1):
            for i, fold in enumerate(folds):
                started = time.monotonic()
                model, is_continued = _fit(candidate, fold, models[i], before, until)
                models[i] = model
                value = _judge(config, candidate, model, fold)
                n_iterations = len(model.summary.history) + (before if is_continued else 0)
                found.append(Outcome(candidate.number, i + 1, rung, n_iterations, value, time.monotonic() - started))
            if _is_worse_than_others(candidate, until, found[-len(folds) :]):
                return [replace(outcome, state="pruned") for outcome in found]
    except MfsparkError as error:
        models[:] = [None] * len(folds)
        rung, fold_before = divmod(len(found), len(folds))
        found.append(Outcome(candidate.number, fold_before + 1, rung + 1, 0, None, 0.0, reason=str(error)))
        return [replace(outcome, state="failed") for outcome in found]
    return found


def _try_again(config: StudyConfig, candidate: Candidate, known: list[Outcome]) -> None:
    """Have later trials compared with one that an earlier attempt at the study has made."""
    for rung, of_rung in groupby(known, lambda outcome: outcome.rung):
        judged = [outcome for outcome in of_rung if outcome.value is not None]
        if len(judged) == config.tune.folds:
            _is_worse_than_others(candidate, candidate.rungs[rung - 1], judged)


def _is_worse_than_others(candidate: Candidate, until: int, of_rung: list[Outcome]) -> bool:
    candidate.trial.report(_mean(of_rung), until)
    return candidate.trial.should_prune()


def _tell(config: StudyConfig, study: "optuna.Study", candidate: Candidate, found: list[Outcome]) -> None:
    from optuna.trial import TrialState

    state = found[-1].state
    if state == "complete":
        study.tell(candidate.trial, _mean(found[-config.tune.folds :]))
    else:
        study.tell(candidate.trial, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)


def _mean(outcomes: list[Outcome]) -> float:
    return fmean(outcome.value for outcome in outcomes if outcome.value is not None)


def _fit(candidate: Candidate, fold: Fold, model: ALSModel | None, before: int, until: int) -> tuple[ALSModel, bool]:
    """A model trained up to a rung, and whether from where the rung before has left it; SGD starts from no model."""
    estimator = candidate.estimator.copy()
    if model is None or not isinstance(estimator, ALS):
        return fold.fits.fit(estimator.setMaxIter(until)), False
    return fold.fits.fit(estimator.setMaxIter(until - before).setInitialModel(model)), True


def _judge(config: StudyConfig, candidate: Candidate, model: ALSModel, fold: Fold) -> float:
    """The metric, of the ratings that were not trained on."""
    metric, recommend = config.tune.metric, candidate.config.recommend
    judged = fold.ratings.where(_JUDGED)
    value: float | None
    if metric == "rmse":  # training has it already
        summary = model.summary
        value = next((at.validation_rmse for at in summary.history if at.iteration == summary.best_iteration), None)
    elif metric == "mae":
        (errors,) = rating_metrics(model.transform(judged))
        value = errors["mae"]
    else:
        seen = fold.ratings.where(~F.col(_JUDGED)) if recommend.drop_seen else None
        wanted = judged.where(F.col("rating") > 0) if candidate.config.train.implicit_prefs else judged
        lists = model.recommendForUserSubset(judged, recommend.n, seen)
        found = ranking_metrics(lists_of(lists, "user_id", "item_id"), relevant_items(wanted), recommend.n)
        value = found[f"{metric}_at_{recommend.n}"]
    if value is None:
        raise TrainingError(f"there is no {metric}: of no rating that is judged were both user and item trained")
    return value


@contextmanager
def _only_own_lines() -> Iterator[None]:
    """Those of each training would drown the trials'."""
    loggers = [logging.getLogger(f"mfspark.{name}") for name in ("solvers", "stages")]
    for other in loggers:
        other.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for other in loggers:
            other.setLevel(logging.NOTSET)


def _log_trial(config: StudyConfig, study: "optuna.Study", candidate: Candidate, last: Outcome) -> None:
    from optuna.trial import TrialState

    settings = ", ".join(f"{name} {value}" for name, value in candidate.trial.params.items())
    is_any_complete = bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    best = f"; best mean {study.best_value:.6g}, of trial {study.best_trial.number + 1}" if is_any_complete else ""
    came = last.reason if last.value is None else f"{config.tune.metric} {last.value:.6g} in the last fold"
    logger.info(
        "trial %d/%d  %s  %s after %d iterations: %s%s",
        candidate.number,
        config.tune.n_trials,
        settings,
        last.state,
        last.iterations,
        came,
        best,
        extra={"context": {"trial": candidate.number, **candidate.trial.params, "state": last.state}},
    )


def _table(spark: SparkSession, outcomes: list[Outcome], candidates: list[Candidate]) -> DataFrame:
    """A row for each outcome, with the settings in a struct of each section."""
    columns: dict[str, pa.Array] = {
        name: pa.array([getattr(outcome, name) for outcome in outcomes], kind)
        for name, kind in [
            ("trial", pa.int32()), ("fold", pa.int32()), ("rung", pa.int32()), ("iterations", pa.int32()),
            ("value", pa.float64()), ("seconds", pa.float64()), ("state", pa.string()), ("reason", pa.string()),
        ]
    }  # fmt: skip
    names = [name.split(".") for name in candidates[0].trial.params]
    for section in dict.fromkeys(section for section, _ in names):
        keys = [key for other, key in names if other == section]
        values = [
            _column([candidates[outcome.trial - 1].trial.params[f"{section}.{key}"] for outcome in outcomes])
            for key in keys
        ]
        columns[section] = pa.StructArray.from_arrays(values, keys)
    return spark.createDataFrame(pa.table(columns)).coalesce(1)


def _column(values: list[Any]) -> pa.Array:
    """Values of one setting; as text, where they are of several types."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array(map(str, values))


def _toml(config: PipelineConfig) -> str:
    import tomli_w

    sections = {
        section: {key: value for key, value in keys.items() if value is not None}
        for section, keys in config.as_dict().items()
    }
    return tomli_w.dumps(sections)
