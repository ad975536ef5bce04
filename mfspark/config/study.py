"""The configuration of a study: the configuration of a run, and the settings to try."""

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from mfspark.config.checking import checked
from mfspark.config.rules import ERRORS, Metric
from mfspark.config.sections import (
    KNOWN_KEYS_ONLY,
    Choice,
    Flag,
    Name,
    Number,
    PipelineConfig,
    PositiveInt,
    SGDConfig,
    TrainConfig,
)
from mfspark.errors import ConfigError

AtLeastTwo = Annotated[int, Field(strict=True, ge=2, lt=2**31)]
# The blocks of all folds are in memory at once.
Folds = Annotated[int, Field(strict=True, ge=1, le=100)]
TuneSeed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class Range:
    """Range of a setting, ends included; whole numbers for integer settings."""

    low: Number
    high: Number
    log: Flag = False
    """Whether to sample on a logarithmic scale."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a range needs low < high, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low > 0, found {self.low}")


_TUNABLE: dict[str, Any] = {"train": TrainConfig, "sgd": SGDConfig}

Space = dict[Name, dict[Name, Annotated[list[Choice], Field(min_length=1)] | Range]]
"""The values to try, by section and key."""


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class TuneConfig:
    """Search for good settings by `jobs/tune.py`. Other jobs ignore this section."""

    space: Space
    """The settings of `train` and `sgd` to vary, such as `train.rank`, each with a list of values or a range such as
    `{ low = 0.01, high = 1.0, log = true }`."""
    method: Literal["grid", "random", "halving"] = "grid"
    """`grid` tries every combination of the lists; `random` tries random combinations; `halving` too, but it stops a
    trial early if others were better after the same number of iterations."""
    metric: Metric = "rmse"
    """The metric by which trials are compared, as the mean over the folds; ranked lists have recommend.n entries."""
    trials: PositiveInt = 20
    """Number of trials, for `random` and `halving`."""
    folds: Folds = 1
    """1 evaluates trials on the validation ratings; a larger number cross-validates them in this many folds of all
    ratings but the holdout."""
    seed: TuneSeed = 0
    """Seed of the folds and of random trials."""
    least_iterations: PositiveInt = 2
    """For `halving`: number of iterations after which trials are first compared."""
    reduction: AtLeastTwo = 2
    """For `halving`: at each comparison, one in this many trials continues, to this many times the iterations, up to
    train.max_iter."""

    def __post_init__(self) -> None:
        if not any(self.space.values()):
            raise ValueError("tune.space is empty; add settings with their values, for example train.rank = [16, 64]")
        for section, keys in self.space.items():
            if section not in _TUNABLE:
                raise ValueError(f"tune.space: '{section}' cannot vary; expected settings of {', '.join(_TUNABLE)}")
            for key, choice in keys.items():
                self._require_choice(section, key, choice)

    def _require_choice(self, section: str, key: str, choice: list[Any] | Range) -> None:
        name = f"{section}.{key}"
        if self.method == "grid" and isinstance(choice, Range):
            raise ValueError(f"tune.space: a grid needs a list of values for '{name}', found a range")
        if name == "train.implicit_prefs":
            raise ValueError(f"tune.space: '{name}' cannot vary; run one study for each value")
        if self.method == "halving" and name in ("train.max_iter", "train.tol", "train.patience"):
            raise ValueError(f"tune.space: halving sets the number of iterations; remove '{name}'")
        for value in [choice.low, choice.high] if isinstance(choice, Range) else choice:
            try:
                checked(_TUNABLE[section], {key: value})
            except ConfigError as error:
                raise ValueError(f"tune.space.{section}: {error}") from error

    @property
    def settings(self) -> dict[str, list[Any] | Range]:
        """The settings that may vary, by section.key."""
        return {f"{section}.{key}": choice for section, keys in self.space.items() for key, choice in keys.items()}

    def is_whole(self, name: str) -> bool:
        """Whether the values of a setting are whole numbers."""
        section, _, key = name.partition(".")
        return isinstance(getattr(_TUNABLE[section](), key), int)

    @property
    def n_trials(self) -> int:
        """Number of trials."""
        if self.method != "grid":
            return self.trials
        return math.prod(len(choice) for choice in self.settings.values() if not isinstance(choice, Range))

    @property
    def is_error(self) -> bool:
        """Whether a lower value of the metric is better."""
        return self.metric in ERRORS


@dataclass(frozen=True, kw_only=True, config=KNOWN_KEYS_ONLY)
class StudyConfig(PipelineConfig):
    """The resolved configuration of a study: the configuration of a run and the settings to try."""

    tune: TuneConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tune.folds == 1 and not self.split.has_validation:
            raise ValueError("tuning needs validation ratings: set split.validation above 0, or tune.folds above 1")
        if self.tune.folds > 1 and self.train.patience > 0:
            raise ValueError(
                "train.patience does not work with several folds: it would stop on the ratings that judge the trial; "
                "remove it, or set tune.folds = 1"
            )
        if self.tune.method == "halving" and (self.train.patience > 0 or self.train.tol > 0):
            raise ValueError("halving sets the number of iterations; remove train.patience and train.tol")
        if self.tune.method == "halving" and self.tune.least_iterations >= self.train.max_iter:
            raise ValueError(
                f"tune.least_iterations must be below train.max_iter, found {self.tune.least_iterations} and "
                f"{self.train.max_iter}"
            )
        if "sgd" in self.tune.space and self.train.algorithm == "als" and "train.algorithm" not in self.tune.settings:
            raise ValueError("tune.space: settings of sgd have no effect when train.algorithm is 'als'; remove them")
        if self.tune.is_error and self.train.implicit_prefs:
            raise ValueError(f"tune.metric = '{self.tune.metric}' does not work with implicit feedback; choose ndcg")

    def of_study(self) -> "StudyConfig":
        """The configuration of the study's own run: with a separate output folder, and not incremental."""
        return replace(
            self,
            input=replace(self.input, incremental=False),
            output=replace(
                self.output, path=f"{self.output.path.rstrip('/')}/tuning", views=None, tables=None, table_format=None
            ),
            train=replace(self.train, warm_max_iter=None),
        )
