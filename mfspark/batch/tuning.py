"""Tuning: train with many settings, evaluate each on ratings that it was not trained on, write the best.

A study is a run in its own output, <output.path>/tuning, so it can be resumed like any run. It never uses the holdout.
"""

import json
import logging
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import groupby, pairwise, product
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark.batch.pipeline import IS_VALIDATION, estimator_of, ingest
from mfspark.config.checking import checked
from mfspark.config.study import Range, StudyConfig
from mfspark.engine.failures import cluster_failures_are
from mfspark.errors import ConfigError, OutputError, TrainingError
from mfspark.ml.estimators import ALS, SGD, SharedFits
from mfspark.ml.model import ALSModel
from mfspark.storage.runs import Run
from mfspark.tables.evaluate import lists_of, ranking_metrics, rating_metrics, relevant_items
from mfspark.tables.split import PART, SplitColumns, fold_of

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

TRIALS, BEST = "trials", "best.toml"
_JOURNAL = "trials.json"
"""The trials so far, to resume a study."""
_REGULARIZATION = "train.reg_param"


@dataclass(frozen=True)
class Outcome:
    """The result of one fold of a trial after some iterations."""

    trial: int
    """Trials, folds and rungs count from 1."""
    fold: int
    rung: int
    iterations: int
    """Number of iterations of the model."""
    value: float | None
    """Value of the metric; None if the trial failed."""
    seconds: float
    """Time of training since the previous outcome, and of evaluation."""
    state: Literal["complete", "pruned", "failed"] = "complete"
    """State of the trial; a pruned trial stopped early because others were better."""
    reason: str | None = None
    """Reason of the failure."""


class Candidate(NamedTuple):
    """The settings of one trial."""

    trial: "optuna.Trial"
    settings: dict[str, Any]
    """By section.key."""
    config: StudyConfig
    estimator: ALS | SGD
    rungs: list[int]
    """Iterations after which the trial is evaluated, ascending."""

    @property
    def number(self) -> int:
        """Number of the trial, from 1."""
        return int(self.trial.number) + 1


class Fold(NamedTuple):
    """Ratings to train on and, if is_validation, to evaluate on."""

    ratings: DataFrame
    fits: SharedFits


def require_tunable(config: StudyConfig) -> None:
    """Raise ConfigError if a library is missing or settings do not work together. Needs no Spark session."""
    if find_spec("optuna") is None or find_spec("tomli_w") is None:
        raise ConfigError("tuning needs optuna and tomli-w, which are not installed; pip install 'mfspark[tune]'")
    _candidates(config, _new_study(config))


def run_study(config: StudyConfig, run: Run) -> None:
    """Run and publish a study that `open_run` opened for `config.of_study()`.

    Raises
    ------
    TrainingError    every trial failed
    """
    if run.is_published:
        logger.info("study %s is already published; nothing to do", run.run_id)
        return
    if not run.is_done("ingest"):
        with run.step("ingest"), cluster_failures_are(OutputError):
            ingest(config, run)
    if not run.is_done("tune"):
        with run.step("tune"), cluster_failures_are(TrainingError):
            tune(config, run)
    run.drop("ratings")
    run.drop(_JOURNAL)
    run.publish()
    logger.info("published study %s in %s", run.run_id, run.folder, extra={"context": {"run_id": run.run_id}})


def tune(config: StudyConfig, run: Run) -> None:
    """Ratings → trials and best.toml: the configuration of a run with the best settings.

    Each training uses the whole cluster, so trials run one after the other. Trials that need the same blocks of a fold
    share them until the end. With halving, a trial continues from its own factors at each rung, until too many other
    trials were better at that rung (Li et al., MLSys 2020, section 3). With `train.tol`, a grid goes from high to low
    regularization, and each trial starts from the factors of the one before.
    """
    study = _new_study(config)
    candidates = _candidates(config, study)
    with ExitStack() as cached:
        folds = _folds(config, run, candidates)
        for fold in folds:
            cached.callback(fold.fits.close)
        outcomes = _try_all(config, run, study, candidates, folds)
    if all(outcome.state != "complete" for outcome in outcomes):
        reason = next(outcome.reason for outcome in outcomes if outcome.reason)
        raise TrainingError(f"no trial completed; the first one failed: {reason}; change tune.space")
    run.write_table(TRIALS, _table(run.spark, outcomes, candidates))
    best = candidates[study.best_trial.number]
    run.write_text(BEST, _toml(best.config))
    run.metrics["tuning"] = {
        "metric": config.tune.metric,
        "trials": len(candidates),
        "best_trial": best.number,
        "best_value": study.best_value,
        "best_settings": best.settings,
    }


def _new_study(config: StudyConfig) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if config.tune.method == "halving":
        pruner = optuna.pruners.SuccessiveHalvingPruner(config.tune.least_iterations, config.tune.reduction)
    return optuna.create_study(
        direction="minimize" if config.tune.is_error else "maximize",
        sampler=optuna.samplers.RandomSampler(config.tune.seed),
        pruner=pruner,
    )


def _candidates(config: StudyConfig, study: "optuna.Study") -> list[Candidate]:
    """All trials; no trial depends on the results of another."""
    candidates = []
    combinations = _grid(config) if config.tune.method == "grid" else [None] * config.tune.trials
    for combination in combinations:
        trial = study.ask()
        settings = combination or {name: _suggest(config, trial, name) for name in config.tune.settings}
        tree = config.as_dict()
        for name, value in settings.items():
            section, _, key = name.partition(".")
            tree[section][key] = value
        varied = checked(StudyConfig, tree)
        estimator = estimator_of(varied).setValidationIndicatorCol(IS_VALIDATION)
        estimator.require_valid()
        candidates.append(Candidate(trial, settings, varied, estimator, _rungs(config, varied.train.max_iter)))
    return candidates


def _grid(config: StudyConfig) -> list[dict[str, Any]]:
    """Every combination; regularization varies fastest, from high to low."""
    names = sorted(config.tune.settings, key=lambda name: name == _REGULARIZATION)
    choices: list[Any] = [config.tune.settings[name] for name in names]
    if names[-1] == _REGULARIZATION:
        choices[-1] = sorted(choices[-1], reverse=True)
    return [dict(zip(names, values, strict=True)) for values in product(*choices)]


def _suggest(config: StudyConfig, trial: "optuna.Trial", name: str) -> Any:
    choice = config.tune.settings[name]
    if not isinstance(choice, Range):
        return trial.suggest_categorical(name, choice)
    suggest: Any = trial.suggest_int if config.tune.is_whole(name) else trial.suggest_float
    return suggest(name, choice.low, choice.high, log=choice.log)


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
    tables = [ratings.withColumn(IS_VALIDATION, is_judged) for is_judged in are_judged]
    return [Fold(table, SharedFits(table, [candidate.estimator for candidate in candidates])) for table in tables]


def _try_all(
    config: StudyConfig, run: Run, study: "optuna.Study", candidates: list[Candidate], folds: list[Fold]
) -> list[Outcome]:
    """Try the candidates in order, without those that an earlier attempt at the study tried."""
    outcomes = [Outcome(**known) for known in json.loads(run.read_text(_JOURNAL) or "[]")]
    known = {number: list(found) for number, found in groupby(outcomes, lambda outcome: outcome.trial)}
    before: Candidate | None = None
    models: list[ALSModel] = []
    for candidate in candidates:
        if candidate.number in known:
            _try_again(config, candidate, known[candidate.number])
            _tell(config, study, candidate, known[candidate.number])
            continue
        starts = models if before and _is_next_on_path(before, candidate, models) else []
        found, models = _try(candidate, folds, starts)
        before = candidate
        _tell(config, study, candidate, found)
        outcomes += found
        run.write_text(_JOURNAL, json.dumps([asdict(outcome) for outcome in outcomes]))
        _log_trial(config, study, candidate, found)
    return outcomes


def _is_next_on_path(before: Candidate, candidate: Candidate, models: list[ALSModel]) -> bool:
    """Whether a grid candidate starts from the models of the one before: only if these converged.

    Otherwise the better start would improve the metric, and a run with the same settings would not reach it.
    """
    changed = [name for name, value in candidate.settings.items() if before.settings[name] != value]
    is_grid = candidate.config.tune.method == "grid"
    return is_grid and changed == [_REGULARIZATION] and all(model.summary.stop_reason == "tol" for model in models)


def _try(candidate: Candidate, folds: list[Fold], starts: list[ALSModel]) -> tuple[list[Outcome], list[ALSModel]]:
    """Train and evaluate in every fold, rung by rung; return the outcomes in this order and the last models.

    starts : models to start training from, if any
    """
    found: list[Outcome] = []
    models = starts
    try:
        for rung, (before, until) in enumerate(pairwise([0, *candidate.rungs]), 1):
            earlier: list[ALSModel | None] = [*models] or [None] * len(folds)
            models = []
            for number, (fold, model) in enumerate(zip(folds, earlier, strict=True), 1):
                started = time.monotonic()
                models.append(_fit(candidate, fold, model, before, until))
                value = _judge(candidate, models[-1], fold)
                n_iterations = until if len(candidate.rungs) > 1 else len(models[-1].summary.history)
                seconds = time.monotonic() - started
                found.append(Outcome(candidate.number, number, rung, n_iterations, value, seconds))
            is_last = until == candidate.rungs[-1]
            if not is_last and _is_worse_than_others(candidate, until, found[-len(folds) :]):
                return [replace(outcome, state="pruned") for outcome in found], models
    except TrainingError as error:
        rung, n_judged = divmod(len(found), len(folds))
        seconds = time.monotonic() - started
        found.append(Outcome(candidate.number, n_judged + 1, rung + 1, 0, None, seconds, reason=str(error)))
        return [replace(outcome, state="failed") for outcome in found], []
    return found, models


def _try_again(config: StudyConfig, candidate: Candidate, known: list[Outcome]) -> None:
    """Add a trial of an earlier attempt to the study, so that later trials are compared with it."""
    for rung, of_rung in groupby(known, lambda outcome: outcome.rung):
        judged = [outcome for outcome in of_rung if outcome.value is not None]
        if len(judged) == config.tune.folds and rung < len(candidate.rungs):
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


def _fit(candidate: Candidate, fold: Fold, model: ALSModel | None, before: int, until: int) -> ALSModel:
    """Train up to a rung from the model of the rung before; SGD starts over, because continuing changes the factors."""
    estimator = candidate.estimator.copy()
    if model is None or not estimator.continuesExactly:
        return fold.fits.fit(estimator.setMaxIter(until))
    return fold.fits.fit(estimator.setMaxIter(until - before).setInitialModel(model))


def _judge(candidate: Candidate, model: ALSModel, fold: Fold) -> float:
    """The metric on the ratings that were not trained on."""
    metric, recommend = candidate.config.tune.metric, candidate.config.recommend
    judged = fold.ratings.where(IS_VALIDATION)
    if candidate.config.tune.is_error:
        (found,) = rating_metrics(model.transform(judged))
        value = found[metric]
    else:
        seen = fold.ratings.where(~F.col(IS_VALIDATION)) if recommend.drop_seen else None
        wanted = relevant_items(judged, are_positive_only=candidate.config.train.implicit_prefs)
        lists = model.recommendForUserSubset(judged, recommend.n, seen)
        found = ranking_metrics(lists_of(lists, "user_id", "item_id"), wanted, recommend.n)
        value = found[f"{metric}_at_{recommend.n}"]
    if value is None:
        raise TrainingError(f"cannot compute {metric}: no validation rating has a user and an item that were trained")
    return value


def _log_trial(config: StudyConfig, study: "optuna.Study", candidate: Candidate, found: list[Outcome]) -> None:
    from optuna.trial import TrialState

    last = found[-1]
    came = last.reason if last.value is None else f"{config.tune.metric} {_mean(found[-config.tune.folds :]):.6g}"
    is_any_complete = bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    best = f"; best {study.best_value:.6g}, trial {study.best_trial.number + 1}" if is_any_complete else ""
    logger.info(
        "trial %d/%d  %s  %s after %d iterations: %s%s",
        candidate.number,
        config.tune.n_trials,
        ", ".join(f"{name} {value}" for name, value in candidate.settings.items()),
        last.state,
        last.iterations,
        came,
        best,
        extra={"context": {"trial": candidate.number, **candidate.settings, "state": last.state}},
    )


def _table(spark: SparkSession, outcomes: list[Outcome], candidates: list[Candidate]) -> DataFrame:
    """A row for each outcome, with a struct of settings for each section."""
    columns: dict[str, pa.Array] = {
        name: pa.array([getattr(outcome, name) for outcome in outcomes], kind)
        for name, kind in [
            ("trial", pa.int32()), ("fold", pa.int32()), ("rung", pa.int32()), ("iterations", pa.int32()),
            ("value", pa.float64()), ("seconds", pa.float64()), ("state", pa.string()), ("reason", pa.string()),
        ]
    }  # fmt: skip
    names = [name.split(".") for name in candidates[0].settings]
    for section in dict.fromkeys(section for section, _ in names):
        keys = [key for other, key in names if other == section]
        values = [
            _column([candidates[outcome.trial - 1].settings[f"{section}.{key}"] for outcome in outcomes])
            for key in keys
        ]
        columns[section] = pa.StructArray.from_arrays(values, keys)
    return spark.createDataFrame(pa.table(columns)).coalesce(1)


def _column(values: list[Any]) -> pa.Array:
    """Values of one setting; text if they have several types."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array(map(str, values))


def _toml(config: StudyConfig) -> str:
    """The configuration of a run."""
    import tomli_w

    sections = {
        section: {key: value for key, value in keys.items() if value is not None}
        for section, keys in config.as_dict().items()
        if section != "tune"
    }
    return tomli_w.dumps(sections)
