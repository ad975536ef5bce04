"""The configuration of a run: one frozen dataclass for each section of the TOML file.

An unknown key or a bad value ends the job before Spark starts. The error names the key, the value found, the values
allowed and the nearest valid key.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, field, fields
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, get_args, get_type_hints
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mfspark.config.rules import WARNINGS, Rule, parse_rules

# pydantic uses the docstring below an attribute as its description.
KNOWN_KEYS_ONLY = ConfigDict(extra="forbid", use_attribute_docstrings=True)

DuplicatePolicy = Literal["keep_all", "last", "mean", "max", "sum", "error"]
TableFormat = Literal["delta", "iceberg"]
ListLayout = Literal["nested", "flat"]
SplitMethod = Literal["random", "random_per_user", "leave_last", "time", "column"]
# Strict: "10" is not 10, and true is not 1.
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
SplitShare = Annotated[float, Field(strict=True, ge=0, lt=1)]
# The JVM takes these numbers as int32.
PositiveInt = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
# With a higher rank, the normal equation of one row would need more than 1 GiB.
Rank = Annotated[int, Field(strict=True, ge=1, le=2**14)]
Bytes = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Version = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Flag = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(strict=True, min_length=1)]
Fold = Annotated[int, Field(strict=True)] | Name
Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True, allow_inf_nan=False)]
Choice = Flag | Number | Annotated[str, Field(strict=True)]
Bounds = Annotated[list[Number], Field(min_length=2, max_length=2)]
Paths = Annotated[list[Name], Field(min_length=1)]
Rules = Name | list[Name]

_UNSET: tuple[Any, ...] = ("parquet", {}, None, False)
_SCHEMA = re.compile(r"\w+(?:\.\w+)?")
_SELECT = re.compile(r"\s*(?:select|with|\()", re.IGNORECASE)

ALS_ONLY = "als only"
"""Marks a parameter that SGD does not have."""

# Keys of `TrainConfig` that no estimator has.
_JOB_ONLY = {"algorithm", "warm_max_iter", "refit"}

_NO_CONTENT = ("gate.", "output.", "report.", "track.", "train.checkpoint_interval", "train.engine")
_SPLIT_SETTINGS: dict[SplitMethod, tuple[str, ...]] = {
    "random": ("holdout", "validation", "seed"),
    "random_per_user": ("holdout", "validation", "seed"),
    "leave_last": ("holdout_items", "validation_items", "seed"),
    "time": ("holdout", "validation"),
    "column": ("holdout_fold", "validation_fold"),
}
VERSIONED_FORMATS = get_args(TableFormat)
"""Formats of tables that keep their versions."""
_TIME_TRAVEL = ("versionasof", "timestampasof", "snapshot-id", "as-of-timestamp", "branch", "tag")
RUN_COLUMN = "run_id"
"""Column with the name of the run, in views and tables of catalogs and in flat recommendations."""
_LIST_COLUMNS = ("rank", "score", "is_fallback", RUN_COLUMN)
_OUTPUT_COLUMNS = ("features", "bias", "recommendations", "score")


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class SourceConfig:
    """Data that Spark can read: files, or a table of a catalog."""

    section: ClassVar[str] = "input"
    """The section that messages name."""

    path: Name | Paths | None = None
    """File, folder, glob, or a list of them; any URI that Spark can read."""
    table: Name | None = None
    """Instead of a path: a table of a catalog, as `catalog.schema.table`."""
    format: Name = "parquet"
    """`parquet`, `csv`, `json`, `orc`, or the name of another data source of Spark, such as `delta`. A data source
    without files, such as `jdbc`, needs no path."""
    options: dict[Name, Choice] = field(default_factory=dict)
    """Options of Spark's reader, such as `header = true` for `csv`."""
    base_path: Name | None = None
    """Spark's `basePath`: folders below it with names such as `day=2026-01-31` become columns. If the path is a single
    folder, Spark finds it without this key."""
    recursive: Flag = False
    """Also read the files in all folders below the path. Names of folders then do not become columns."""
    version: Version | None = None
    """For a table of Delta or Iceberg, the version to read: Delta's number of the version, or Iceberg's id of the
    snapshot. If it is not set, the newest; the manifest of a run names the one that it read (`input_version`)."""

    def __post_init__(self) -> None:
        is_of_files = self.format in ("parquet", "csv", "json", "orc", "text", "avro")
        if (self.path is not None and self.table is not None) or (self.path is self.table and is_of_files):
            raise ValueError("expected either path or table, found " + ("neither" if self.path is None else "both"))
        if self.table is not None:
            stray = [key for key in ("format", "options", "base_path", "recursive") if getattr(self, key) not in _UNSET]
            if stray:
                raise ValueError(f"{stray[0]} works with path only, found table; remove {stray[0]}")
        if self.version is not None and self.table is None and self.format not in VERSIONED_FORMATS:
            raise ValueError(f"version works with tables of delta and iceberg only, found format '{self.format}'")
        travel = [key for key in self.options if key.lower() in _TIME_TRAVEL]
        if travel and self.format in VERSIONED_FORMATS:
            raise ValueError(f"options must not name {travel[0]}; set version instead")

    @property
    def paths(self) -> list[str]:
        """The paths; empty for a table."""
        return [] if self.path is None else [self.path] if isinstance(self.path, str) else self.path

    @property
    def label(self) -> str:
        """How messages name the source."""
        return ", ".join(self.paths) or self.table or self.format


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class InputConfig(SourceConfig):
    """Where the ratings are, which files to read, and what to do with duplicates and unusable rows."""

    query: Name | None = None
    """A SELECT that returns the ratings. It reads the view `input` and the views of `input.others`; use it to cast,
    filter, join, or take nested fields."""
    others: dict[Name, SourceConfig] = field(default_factory=dict)
    """Other sources for the query, by the names of their views: `[input.others.films]`, with a path or table."""
    duplicates: DuplicatePolicy = "keep_all"
    """What to do with several ratings of one (user, item). `keep_all` trains on each of them, as Spark's ALS does;
    `last`, `mean`, `max` and `sum` merge them into one; `error` fails the run. `last` needs `columns.timestamp`; `sum`
    counts events that have no rating."""
    exclude: list[Name] = field(default_factory=list)
    """Patterns of files to skip, such as `*/day=2026-01-31/*`. A pattern must match the whole URI; `*` matches any
    characters."""
    exclude_runs: list[Name] = field(default_factory=list)
    """Names of runs. The files that were new in these runs are skipped."""
    max_rejected_share: Share = 0.1
    """The run fails if it rejects more than this share of the rows that it reads."""
    incremental: Flag = False
    """Start from the run that CURRENT names. Training starts from its factors if they have the same columns. If the
    input still has all files of that run and the settings of input, columns and split are the same, the run reuses its
    ratings and reads only new files. Of a table of Delta or Iceberg it reads the rows that were inserted, updated or
    deleted since. A run without new files or changed rows publishes nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.query is not None and not _SELECT.match(self.query):
            raise ValueError("query must be a SELECT, or a WITH … SELECT")
        if self.others and self.query is None:
            raise ValueError("others works with query only; set query, or remove others")
        if "input" in self.others:
            raise ValueError("others must not have the name 'input', which is the view of the input; rename it")
        if self.incremental and self.path is self.table:
            raise ValueError("incremental = true compares files or versions, but there is no path or table; set one")
        if (self.exclude or self.exclude_runs) and (self.path is None or self.format in VERSIONED_FORMATS):
            raise ValueError(
                "exclude and exclude_runs skip files, but the input is a table; delete the rows there, or filter them "
                "with query"
            )

    @property
    def compares_files(self) -> bool:
        """Whether a run needs the size and modification time of each file."""
        return (
            self.path is not None
            and self.format not in VERSIONED_FORMATS
            and (self.incremental or bool(self.exclude or self.exclude_runs))
        )


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class ColumnsConfig:
    """Names of the input columns; output tables use the same names."""

    user: Name = "user_id"
    item: Name = "item_id"
    rating: Annotated[str, Field(strict=True)] = "rating"
    """"" if the input has no ratings: each row then counts as 1, as an event of implicit feedback."""
    timestamp: Name | None = None
    """Numbers, dates, timestamps, or text in ISO 8601 or in `timestamp_format`."""
    timestamp_format: Name | None = None
    """Format of timestamps that are text, in the syntax of Spark's to_timestamp: `dd.MM.yyyy HH:mm`."""
    weight: Name | None = None
    """How many times each rating counts; once without this column."""
    fold: Name | None = None
    """Integers or strings, for `split.method = "column"`."""

    def __post_init__(self) -> None:
        if len({name.lower() for name in self.used}) < len(self.used):
            raise ValueError(f"column names must be different, found {self.used}")
        if self.timestamp_format is not None and self.timestamp is None:
            raise ValueError("timestamp_format works with timestamp only; set timestamp, or remove timestamp_format")
        for name in (self.user, self.item):
            if name.lower() in _OUTPUT_COLUMNS:
                raise ValueError(f"'{name}' is the name of an output column; rename the input column")

    @property
    def used(self) -> list[str]:
        """All columns that a run reads."""
        columns = (self.user, self.item, self.rating, self.timestamp, self.weight, self.fold)
        return [name for name in columns if name]


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class SplitConfig:
    """Which ratings are held out from training. All ratings of one (user, item) go to the same part."""

    method: SplitMethod = "random"
    """`random` holds out a share of all pairs, chosen by a hash of (seed, user, item); `random_per_user` a share of
    each user's pairs; `leave_last` the latest items of each user; `time` the latest share of all pairs, and never
    splits pairs of the same time; `column` the folds named by a column. `random_per_user` and `leave_last` leave at
    least one item of each user for training."""
    holdout: SplitShare = 0.1
    """Share of the pairs that is evaluated once, after training; not for `leave_last` and `column`."""
    validation: SplitShare = 0.0
    """Share of the pairs that is evaluated after every iteration, for early stopping; not for `leave_last` and
    `column`. With `time`, these are the pairs just before the holdout."""
    seed: Seed = 0
    """Seed of the hash. With `leave_last` it orders items with the same time."""
    holdout_items: NonNegativeInt = 1
    """For `leave_last`: number of items held out for each user."""
    validation_items: NonNegativeInt = 0
    """For `leave_last`: number of items for validation for each user, just before those of the holdout."""
    holdout_fold: Fold | None = None
    """For `column`: the value of `columns.fold` that marks the holdout. Training uses all folds but this one and
    `validation_fold`."""
    validation_fold: Fold | None = None
    """For `column`: the value of `columns.fold` that marks validation ratings."""

    def __post_init__(self) -> None:
        changed = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        stray = [key for key in changed if key not in ("method", *_SPLIT_SETTINGS[self.method])]
        if stray:
            raise ValueError(
                f"method '{self.method}' has no setting {stray[0]}; remove it; valid: "
                f"{', '.join(_SPLIT_SETTINGS[self.method])}"
            )
        if self.method == "column" and self.holdout_fold is None:
            raise ValueError("method 'column' needs holdout_fold; set it")
        if self.method == "column" and str(self.holdout_fold) == str(self.validation_fold):
            raise ValueError(f"holdout_fold and validation_fold must be different folds, found {self.holdout_fold!r}")
        if self.holdout + self.validation >= 1:
            raise ValueError(
                f"holdout + validation must leave ratings to train on, found {self.holdout} + {self.validation}"
            )

    @property
    def needs_timestamp(self) -> bool:
        """Whether the method needs the time of each rating."""
        return self.method in ("leave_last", "time")

    @property
    def has_holdout(self) -> bool:
        """Whether there are holdout ratings."""
        n_judged = {"leave_last": self.holdout_items, "column": 1}
        return n_judged.get(self.method, self.holdout) > 0

    @property
    def has_validation(self) -> bool:
        """Whether there are validation ratings."""
        return self.validation > 0 or self.validation_items > 0 or self.validation_fold is not None


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class TrainConfig:
    """Parameters of the estimator, in snake case.

    `ml/params.py` reads the types, ranges, defaults and descriptions of the estimators' parameters from here and from
    `SGDConfig`.
    """

    algorithm: Literal["als", "sgd"] = "als"
    """Alternating least squares or stochastic gradient descent."""
    rank: Rank = 10
    """Number of latent factors."""
    max_iter: NonNegativeInt = 10
    """Number of iterations; `tol` and `patience` can stop training earlier."""
    warm_max_iter: NonNegativeInt | None = None
    """Number of iterations if training starts from the factors of an earlier run; `max_iter` if it is not set."""
    refit: Flag = True
    """Whether to publish factors that are trained on all ratings: training then continues with all ratings of the
    input from the factors that were trained without the holdout. `false` publishes the factors trained without it."""
    reg_param: NonNegativeFloat = 0.1
    """Regularization λ; each row's λ is multiplied by its number of ratings unless `reg_scaling` changes that."""
    seed: Seed = 0
    """Seed of the initial factors. The same seed, data and numbers of blocks give the same bytes."""
    num_user_blocks: Annotated[NonNegativeInt, ALS_ONLY] = 10
    """Number of user blocks; 0 chooses it from the number of ratings and cores."""
    num_item_blocks: Annotated[NonNegativeInt, ALS_ONLY] = 10
    """Number of item blocks; 0 chooses it from the number of ratings and cores."""
    tol: NonNegativeFloat = 0.0
    """Training stops when an iteration lowers the objective by less than this share of it; 0: never."""
    patience: NonNegativeInt = 0
    """Training stops after this many iterations without a lower validation RMSE and keeps the factors of the best
    iteration; 0: never."""
    solver: Annotated[Literal["cholesky", "cg", "subspace"], ALS_ONLY] = "cholesky"
    """How the normal equation of a row is solved: `cholesky` solves it exactly, `cg` does conjugate gradient steps from
    the old factors, `subspace` solves for 16 coordinates at a time, each time exactly (iALS++)."""
    cg_steps: Annotated[PositiveInt, ALS_ONLY] = 3
    """Steps of `cg` in each half-iteration."""
    implicit_prefs: Annotated[Flag, ALS_ONLY] = False
    """Whether the ratings are implicit feedback."""
    alpha: Annotated[NonNegativeFloat, ALS_ONLY] = 1.0
    """Implicit feedback: α of the confidence c = confidence_offset + α|r|."""
    confidence_offset: Annotated[NonNegativeFloat, ALS_ONLY] = 1.0
    """Implicit feedback: the confidence of a rating of 0."""
    unobserved_weight: Annotated[NonNegativeFloat | None, ALS_ONLY] = None
    """Implicit feedback: the weight α₀ of the squared prediction of every pair (iALS); if it is not set, pairs without
    a rating have confidence 1."""
    nonnegative: Annotated[Flag, ALS_ONLY] = False
    """Whether all factors must be ≥ 0."""
    biases: Flag = False
    """Whether users and items have biases."""
    bias_reg_param: NonNegativeFloat | None = None
    """λ of the biases; `reg_param` if it is not set."""
    user_reg_param: NonNegativeFloat | None = None
    """λ of the users; `reg_param` if it is not set."""
    item_reg_param: NonNegativeFloat | None = None
    """λ of the items; `reg_param` if it is not set."""
    reg_scaling: Annotated[Literal["count", "none"] | NonNegativeFloat, ALS_ONLY] = "count"
    """What λ of a row is multiplied by: `count`, its number of ratings; `none`, 1; a number, its number of ratings to
    that power."""
    clip: Bounds | None = None
    """Explicit ratings: the lowest and the highest rating, such as [1, 5]. Predictions outside are set to the nearer
    bound, for the metrics too. Scores of recommendations stay as they are."""
    max_broadcast_bytes: Annotated[Bytes | None, ALS_ONLY] = None
    """If the factors of a side are larger than this, they stay on the executors; if it is not set, the limit is half
    the memory of an executor divided by its cores. The engine `local` has no limit."""
    engine: Literal["auto", "local", "rdd", "connect"] = "auto"
    """Where training runs: `local` in threads of the driver or, on Spark Connect, of the client; `rdd` on the
    executors; `connect` on those of a Spark Connect server; `auto` chooses `local` if ratings and factors are small."""
    checkpoint_interval: PositiveInt | Literal[-1] = 10
    """Iterations between two checkpoints; an interrupted fit continues from the last one; -1 writes none."""

    def of_algorithm(self) -> dict[str, Any]:
        """The parameters of the algorithm's estimator, by key."""
        others = _JOB_ONLY | (als_only_keys() if self.algorithm == "sgd" else set())
        return {key: value for key, value in asdict(self).items() if key not in others}


def als_only_keys() -> set[str]:
    """Keys of `TrainConfig` that SGD does not have."""
    hints = get_type_hints(TrainConfig, include_extras=True)
    return {"warm_max_iter", *(key for key, hint in hints.items() if ALS_ONLY in getattr(hint, "__metadata__", ()))}


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class SGDConfig:
    """Parameters that only SGD has. They apply if train.algorithm is "sgd"."""

    num_blocks: PositiveInt = 4
    """Number of user blocks and of item blocks; an epoch has as many strata, and a stratum as many tasks."""
    learning_rate: PositiveFloat = 0.02
    """Learning rate η of the first epoch."""
    schedule: Literal["constant", "inverse", "bold", "adagrad"] = "inverse"
    """How the learning rate changes. `constant`: it does not. `inverse` divides it by 1 + decay·(epoch − 1). `bold`
    raises it by 5 % after an epoch that lowered the objective, and else halves it. `adagrad` sets it for each row from
    the gradients of the row."""
    decay: NonNegativeFloat = 0.1
    """Decay of the schedule `inverse`."""


@dataclass(frozen=True, kw_only=True, config=KNOWN_KEYS_ONLY)
class ItemTableConfig(SourceConfig):
    """A table with a row for each item: where it is, and which column has the ids."""

    id: Name
    """Column with the ids of the items."""


@dataclass(frozen=True, kw_only=True, config=KNOWN_KEYS_ONLY)
class ItemColumnsConfig(ItemTableConfig):
    """A table whose columns lists get."""

    section: ClassVar[str] = "recommend.items"

    columns: Annotated[list[Name], Field(min_length=1)]
    """Columns to add to each recommendation."""


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class RecommendConfig:
    """The table of recommendations."""

    n: PositiveInt = 10
    """Number of items for each user."""
    drop_seen: Flag = True
    """Leave out every item that the user has rated in the input, held-out ratings included."""
    fallback: Literal["none", "popular"] = "none"
    """`popular` fills lists shorter than n, and the lists of users without factors, with the most popular items. Each
    entry then has a field `is_fallback`."""
    layout: ListLayout = "nested"
    """`nested`: a row for each user, with an array of recommendations; `flat`: a row for each recommendation, with the
    columns user, item, `rank`, `score` and `run_id`."""
    items: ItemColumnsConfig | None = None
    """A table of the items whose columns each recommendation gets, such as `{ path = "items.parquet", id = "item_id",
    columns = ["title", "price"] }`; the keys `path` to `recursive` of `[input]` work here too. They are null for an
    item that the table does not have."""


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class GateConfig:
    """Rules that a run must meet before it is published, such as `ndcg >= popularity` or `users >= 0.9 * current`.

    A rule has a measure, `>=` or `<=`, and a bound. The measures are: the metrics of the holdout (`rmse`, `mae`,
    `ndcg`, `precision`, `recall`, `map`, `hit_rate`); the numbers of `users`, `items` and `ratings` that the published
    factors were trained on; the share of users with `full_lists`; the share of `rejected` rows. The bound is a number,
    or the value of the same measure, times a factor, in the `current` run or in a baseline (`popularity`,
    `mean_and_biases`). If this run or the current run lacks the measure, the run does not meet the rule. If there is
    no current run, it meets all rules with `current`.
    """

    hold: Rules = field(default_factory=list)
    """A run that breaks one of these rules is kept, but not published; the job ends with exit code 6."""
    warn: Rules | None = None
    """A run that breaks one of these rules is published with a warning; if it is not set, the default
    rules apply, which docs/howto/operate.md lists."""
    accept: Rules = field(default_factory=list)
    """Rules of `hold` that this run may break. Pass it by `--set`, with `--resume`, to publish a run that the gate
    held."""

    def __post_init__(self) -> None:
        for rules in (self.hold, self.warn or [], self.accept):
            parse_rules(rules)

    @property
    def holding(self) -> list[Rule]:
        """The rules that hold a run."""
        return parse_rules(self.hold)

    @property
    def accepted(self) -> list[Rule]:
        """The rules that this run may break."""
        return parse_rules(self.accept)


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class OutputConfig:
    """Where runs are written, and how many are kept."""

    path: Name
    """Folder of all runs; any URI that Spark can write."""
    keep_runs: PositiveInt | None = None
    """How many of the newest published runs to keep; if it is not set, all."""
    single_writer: Flag = False
    """Whether your scheduler starts only one job at a time on this output. Needed only on a store without conditional
    writes, where jobs otherwise refuse to start, because the lock cannot keep them apart."""
    report: Flag = True
    """Whether to write report.html; needs mfspark[report]. Cost: six aggregations of the ratings."""
    views: Name | None = None
    """A schema of the session's catalog, as `schema` or `catalog.schema`. After a publication or a rollback, its views
    `recommendations`, `user_factors` and `item_factors` show the run that CURRENT names. Outputs must not share a
    schema."""

    tables: Name | None = None
    """A schema of a catalog, as `views`. After a publication or a rollback, its tables `recommendations`,
    `user_factors` and `item_factors` are replaced by those of the run that CURRENT names, each by one commit. Needs
    `table_format`."""
    table_format: TableFormat | None = None
    """`delta` or `iceberg`: the format of `tables`."""

    def __post_init__(self) -> None:
        for key in ("views", "tables"):
            schema = getattr(self, key)
            if schema is not None and not _SCHEMA.fullmatch(schema):
                raise ValueError(
                    f"{key} must be 'schema' or 'catalog.schema', of letters, digits and _; found {schema!r}"
                )
        if self.views is not None and self.keep_runs == 1:
            raise ValueError(
                "views needs keep_runs = 2 or more, because queries that are running at a publication still read the "
                "run before; set keep_runs"
            )
        if (self.tables is None) != (self.table_format is None):
            raise ValueError("tables and table_format work together only; set both, or none")
        spellings = [str(schema).lower().removeprefix("spark_catalog.") for schema in (self.views, self.tables)]
        if self.tables is not None and len(set(spellings)) == 1:
            raise ValueError(f"views and tables have the same names, and both are in '{self.views}'; use two schemas")


@dataclass(frozen=True, kw_only=True, config=KNOWN_KEYS_ONLY)
class ItemNamesConfig(ItemTableConfig):
    """A table with a name for each item."""

    section: ClassVar[str] = "report.item_names"

    name: Name
    """Column with the names that the report shows, such as titles."""


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class ReportConfig:
    """Item names for report.html; `output.report` switches the report on and off."""

    item_names: ItemNamesConfig | None = None
    """A table whose names the report shows instead of item ids, such as `{ path = "titles.parquet", id = "item_id",
    name = "title" }`; the keys `path` to `recursive` of `[input]` work here too. Ids are compared as text. If the table
    cannot be read, the report shows ids and the run continues."""


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class TrackConfig:
    """Tracking of finished and failed runs."""

    mlflow_uri: Name | None = None
    """MLflow server or database: http://…, sqlite:///…; needs mfspark[mlflow]."""
    mlflow_experiment: Name = "mfspark"
    """Name of the MLflow experiment."""
    openmetrics_path: Name | None = None
    """Local file on the driver for the textfile collector of Prometheus's node exporter; it must end in .prom; needs
    mfspark[openmetrics]."""

    def __post_init__(self) -> None:
        if self.openmetrics_path is not None and not self.openmetrics_path.endswith(".prom"):
            raise ValueError(f"openmetrics_path must end in .prom, found '{self.openmetrics_path}'")
        # Every run writes its configuration to its manifest.
        if self.mlflow_uri is not None and urlsplit(self.mlflow_uri).password is not None:
            raise ValueError(
                "mlflow_uri must not have a password in it; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
                "in the environment of the job"
            )


def _absolute(path: str) -> PurePosixPath:
    """A path or URI, to compare with another; a local path as Spark's driver finds it."""
    scheme, separator, rest = path.partition("://")
    if separator and scheme != "file":
        return PurePosixPath(f"{scheme}:", rest)
    return PurePosixPath(os.path.abspath(rest if separator else path.removeprefix("file:")))


@dataclass(frozen=True, config=KNOWN_KEYS_ONLY)
class PipelineConfig:
    """The resolved configuration of one run."""

    input: InputConfig
    output: OutputConfig
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    split: SplitConfig = Field(default_factory=SplitConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    sgd: SGDConfig = Field(default_factory=SGDConfig)
    recommend: RecommendConfig = Field(default_factory=RecommendConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    track: TrackConfig = Field(default_factory=TrackConfig)

    def __post_init__(self) -> None:
        if self.input.duplicates == "last" and self.columns.timestamp is None:
            raise ValueError("input.duplicates = 'last' needs columns.timestamp; set it")
        if self.train.warm_max_iter is not None and not self.input.incremental:
            raise ValueError("train.warm_max_iter needs input.incremental = true; set it or remove train.warm_max_iter")
        self._require_separate_output()
        self._require_free_names()
        self._require_measures(self.gate.holding + parse_rules(self.gate.warn or []))
        if self.split.needs_timestamp and self.columns.timestamp is None:
            raise ValueError(f"split.method = '{self.split.method}' needs columns.timestamp; set it")
        if (self.split.method == "column") != (self.columns.fold is not None):
            raise ValueError("split.method = 'column' and columns.fold go together; set both or neither")
        if self.train.algorithm == "sgd":
            changed = [key for key in als_only_keys() if getattr(self.train, key) != getattr(TrainConfig(), key)]
            if changed:
                raise ValueError(f"train.{min(changed)} works with ALS only; remove it or set train.algorithm = 'als'")
        if self.train.patience > 0 and not self.split.has_validation:
            raise ValueError(
                "train.patience needs validation ratings: set split.validation above 0 (validation_items for method "
                "'leave_last', validation_fold for 'column')"
            )

    @property
    def warnings(self) -> list[Rule]:
        """The rules of `gate.warn`; if it is not set, the default rules whose measures this configuration has."""
        if self.gate.warn is not None:
            return parse_rules(self.gate.warn)
        return [rule for rule in WARNINGS if self._lacks_measure_of(rule) is None]

    def _lacks_measure_of(self, rule: Rule) -> str | None:
        """Why runs of this configuration never have the measure of a rule; None if they have it."""
        if rule.needs_holdout and not self.split.has_holdout:
            return "needs holdout ratings: set split.holdout or split.holdout_items above 0"
        if rule.is_of_error and self.train.implicit_prefs:
            return "does not work with implicit feedback; choose ndcg"
        return None

    def _require_separate_output(self) -> None:
        output = _absolute(self.output.path)
        for path in self.input.paths:
            if _absolute(path).is_relative_to(output):
                raise ValueError(
                    f"output.path '{self.output.path}' is or contains the input '{path}'; write to another folder"
                )

    def _require_free_names(self) -> None:
        ids = (self.columns.user, self.columns.item)
        is_flat = self.recommend.layout == "flat"
        for name in ids:
            if (self.output.views or self.output.tables) and name.lower() == RUN_COLUMN:
                raise ValueError(f"'{name}' is the name of a column of views and tables; rename the input column")
            if is_flat and name.lower() in _LIST_COLUMNS:
                raise ValueError(f"'{name}' is the name of a column of flat recommendations; rename the input column")
        taken = {name.lower() for name in (*ids, *_LIST_COLUMNS)}
        for name in self.recommend.items.columns if self.recommend.items else ():
            if name.lower() in taken:
                raise ValueError(
                    f"recommend.items.columns: recommendations already have a column '{name}'; rename it in the table "
                    "of items, or leave it out"
                )
            taken.add(name.lower())

    def _require_measures(self, rules: list[Rule]) -> None:
        for rule in rules:
            lack = self._lacks_measure_of(rule)
            if lack is not None:
                raise ValueError(f"gate: '{rule}' {lack}")

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, for the manifest."""
        return asdict(self)

    def changes_since(self, before: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """The settings that differ from an earlier configuration: section.key → (then, now).

        Only settings that change the tables of a run, not those of its location, tracking or publication.

        before : the earlier configuration, as `as_dict` returns it
        """
        return {
            f"{section}.{key}": (then, now)
            for section, keys in self.as_dict().items()
            for key, now in keys.items()
            if (then := before.get(section, {}).get(key)) != now and not f"{section}.{key}".startswith(_NO_CONTENT)
        }

    def hash(self) -> str:
        """SHA-256 of the resolved configuration; the same settings give the same hash."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()
