"""Parameters of the estimators and of their models.

Parameters that a job can set have their type, range, default and description in `config/sections.py`. This module has
their names, so that editors complete them, and the parameters that only an estimator has.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args, get_origin

from pyspark import StorageLevel
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasBlockSize,
    HasCheckpointInterval,
    HasMaxIter,
    HasPredictionCol,
    HasRegParam,
    HasSeed,
    HasTol,
    HasValidationIndicatorCol,
    HasWeightCol,
)

from mfspark.config.sections import SGDConfig, TrainConfig
from mfspark.errors import ConfigError

_Value = TypeVar("_Value")
_Owner = TypeVar("_Owner", bound=Params)


def _param(name: str, doc: str, converter: Callable[[Any], _Value]) -> Param[_Value]:
    return Param(Params._dummy(), name, doc, typeConverter=converter)


def _getter(param: Param[_Value]) -> Callable[[Any], _Value]:
    """The method getX of a parameter x."""

    def get(self: Any) -> _Value:
        value: _Value = self.getOrDefault(param.name)
        return value

    get.__name__, get.__doc__ = f"get{_capitalized(param.name)}", f"Value of {param.name}: {param.doc}."
    return get


def _setter(param: Param[_Value]) -> Callable[[_Owner, _Value], _Owner]:
    """The method setX of a parameter x."""

    def set(self: _Owner, value: _Value) -> _Owner:
        return self._set(**{param.name: value})

    set.__name__, set.__doc__ = f"set{_capitalized(param.name)}", f"Set {param.name}: {param.doc}."
    return set


def _capitalized(name: str) -> str:
    return name[0].upper() + name[1:]


def _to_scaling(value: Any) -> str | float:
    return value if isinstance(value, str) else TypeConverters.toFloat(value)


_SETTINGS: dict[str, Any] = {**TrainConfig.__pydantic_fields__, **SGDConfig.__pydantic_fields__}  # type: ignore[attr-defined]
_CONVERTERS = {
    int: TypeConverters.toInt,
    float: TypeConverters.toFloat,
    bool: TypeConverters.toBoolean,
    str: TypeConverters.toString,
}


def _setting(name: str) -> Param[Any]:
    """A parameter, with the description of the configuration."""
    field = _SETTINGS[snake_case(name)]
    types = list(dict.fromkeys(kind for kind, _ in _kinds(field.annotation, field.metadata)))
    converter = _CONVERTERS[types[0]] if len(types) == 1 else _to_scaling
    return _param(name, _described(field.description or ""), converter)


def _described(text: str) -> str:
    """A description with the Python names of settings."""
    for key in _SETTINGS:
        first, *others = key.split("_")
        if others:
            text = re.sub(rf"\b{key}\b", first + "".join(word.capitalize() for word in others), text)
    return " ".join(text.split())


def snake_case(name: str) -> str:
    """The key of a parameter in a configuration."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _kinds(annotation: Any, metadata: Any = ()) -> Iterator[tuple[type, float | None]]:
    """The value types that an annotation allows, each with its minimum; without None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from ((type(choice), None) for choice in arguments if not isinstance(choice, int))
    elif hasattr(annotation, "__metadata__"):
        yield from _kinds(arguments[0], annotation.__metadata__)
    elif arguments:
        for argument in arguments:
            yield from _kinds(argument, metadata)
    elif annotation is not type(None):
        yield annotation, _minimum(metadata)


def _minimum(metadata: Any) -> float | None:
    for entry in metadata:
        nested = _minimum(getattr(entry, "metadata", ()))
        for found in (nested, getattr(entry, "ge", None), getattr(entry, "gt", None)):
            if isinstance(found, int | float):
                return found
    return None


# For parameters that no configuration has.
_MINIMUMS = {"blockSize": 1}


def _require_in_range(params: Params) -> None:
    """Raise ConfigError if a number is below its minimum or not finite; ignores parameters without a value."""
    for param in params.params:
        field = _SETTINGS.get(snake_case(param.name))
        minimum = _MINIMUMS.get(param.name) if field is None else _least(field)
        value = params.getOrDefault(param) if params.isDefined(param) else None
        if minimum is not None and isinstance(value, int | float) and not minimum <= value < float("inf"):
            raise ConfigError(f"{param.name} must be finite and at least {minimum}, found {value}")


def _least(field: Any) -> float | None:
    """The minimum of a setting; None if it is not a number, or also has other values (-1, "count")."""
    if any(get_origin(argument) is Literal for argument in get_args(field.annotation)):
        return None
    minimums = [least for _, least in _kinds(field.annotation, field.metadata) if least is not None]
    return minimums[0] if minimums else None


def _require_choices(params: Params) -> None:
    """Raise ConfigError if a parameter has a value that is not among its choices."""
    for param in params.params:
        field = _SETTINGS.get(snake_case(param.name))
        choices = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
        if choices and params.getOrDefault(param) not in choices:
            found = params.getOrDefault(param)
            raise ConfigError(f"{param.name} must be one of {', '.join(map(repr, choices))}, found '{found}'")


def _defaults(params: Params) -> dict[str, Any]:
    """The defaults of parameters that a configuration has, without those whose default is None."""
    found = {param.name: _SETTINGS.get(snake_case(param.name)) for param in params.params}
    return {name: field.default for name, field in found.items() if field and field.default is not None}


class ModelParams(HasPredictionCol, HasBlockSize):
    """Parameters that an estimator and its model share."""

    userCol = _param("userCol", "column name for user ids", TypeConverters.toString)
    itemCol = _param("itemCol", "column name for item ids", TypeConverters.toString)
    coldStartStrategy = _param(
        "coldStartStrategy",
        "what transform does with pairs of an unknown user or item: 'nan' predicts NaN, 'drop' leaves them out, 'mean' "
        "predicts the mean rating and what biases are known",
        TypeConverters.toString,
    )

    clip = _param("clip", _described(_SETTINGS["clip"].description), TypeConverters.toListFloat)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(userCol="user", itemCol="item", coldStartStrategy="nan", blockSize=4096)

    getUserCol = _getter(userCol)
    setUserCol = _setter(userCol)
    getItemCol = _getter(itemCol)
    setItemCol = _setter(itemCol)
    getColdStartStrategy = _getter(coldStartStrategy)
    setColdStartStrategy = _setter(coldStartStrategy)
    getClip = _getter(clip)
    setClip = _setter(clip)
    setPredictionCol = _setter(HasPredictionCol.predictionCol)
    setBlockSize = _setter(HasBlockSize.blockSize)

    def cold_start_strategy(self) -> str:
        """'nan', 'drop' or 'mean', from any case; raise ConfigError for other values."""
        strategy = self.getColdStartStrategy().lower()
        if strategy not in ("nan", "drop", "mean"):
            raise ConfigError(f"coldStartStrategy must be 'nan', 'drop' or 'mean', found '{strategy}'")
        return strategy

    def bounds(self) -> tuple[float, float] | None:
        """The least and the greatest prediction, if they are set; raise ConfigError when they are no such pair."""
        if not self.isDefined("clip"):
            return None
        found = self.getClip()
        if len(found) != 2 or not -float("inf") < found[0] < found[1] < float("inf"):
            raise ConfigError(f"clip must be the least and the greatest rating, such as [1, 5], found {found}")
        return found[0], found[1]


class FactorizerParams(
    ModelParams,
    HasMaxIter,
    HasRegParam,
    HasSeed,
    HasTol,
    HasValidationIndicatorCol,
    HasWeightCol,
    HasCheckpointInterval,
):
    """The parameters of every estimator."""

    rank = _setting("rank")
    ratingCol = _param("ratingCol", "column name for ratings", TypeConverters.toString)
    patience = _setting("patience")
    intermediateStorageLevel = _param(
        "intermediateStorageLevel", "StorageLevel of the blocked ratings; not 'NONE'", TypeConverters.toString
    )
    finalStorageLevel = _param(
        "finalStorageLevel",
        "StorageLevel of the factor tables; at the default they are read out of a broadcast, which is in memory and on "
        "disk, and not stored again",
        TypeConverters.toString,
    )
    checkpointPath = _param(
        "checkpointPath",
        "folder of the fit's checkpoints: one is written there after every checkpointInterval iterations, and fit goes "
        "on from one that it finds there",
        TypeConverters.toString,
    )
    biases = _setting("biases")
    biasRegParam = _setting("biasRegParam")
    userRegParam = _setting("userRegParam")
    itemRegParam = _setting("itemRegParam")

    engine = _setting("engine")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            ratingCol="rating",
            intermediateStorageLevel="MEMORY_AND_DISK",
            finalStorageLevel="MEMORY_AND_DISK",
            **_defaults(self),
        )

    getRank = _getter(rank)
    setRank = _setter(rank)
    getRatingCol = _getter(ratingCol)
    setRatingCol = _setter(ratingCol)
    getPatience = _getter(patience)
    setPatience = _setter(patience)
    getIntermediateStorageLevel = _getter(intermediateStorageLevel)
    setIntermediateStorageLevel = _setter(intermediateStorageLevel)
    getFinalStorageLevel = _getter(finalStorageLevel)
    setFinalStorageLevel = _setter(finalStorageLevel)
    getCheckpointPath = _getter(checkpointPath)
    setCheckpointPath = _setter(checkpointPath)
    getBiases = _getter(biases)
    setBiases = _setter(biases)
    getBiasRegParam = _getter(biasRegParam)
    setBiasRegParam = _setter(biasRegParam)
    getUserRegParam = _getter(userRegParam)
    setUserRegParam = _setter(userRegParam)
    getItemRegParam = _getter(itemRegParam)
    setItemRegParam = _setter(itemRegParam)
    getEngine = _getter(engine)
    setEngine = _setter(engine)
    setMaxIter = _setter(HasMaxIter.maxIter)
    setRegParam = _setter(HasRegParam.regParam)
    setSeed = _setter(HasSeed.seed)
    setTol = _setter(HasTol.tol)
    setValidationIndicatorCol = _setter(HasValidationIndicatorCol.validationIndicatorCol)
    setWeightCol = _setter(HasWeightCol.weightCol)
    setCheckpointInterval = _setter(HasCheckpointInterval.checkpointInterval)

    def require_valid(self) -> None:
        """Raise ConfigError if a parameter is out of range or does not work with another."""
        _require_in_range(self)
        _require_choices(self)
        if self.getPatience() and not self.isDefined("validationIndicatorCol"):
            raise ConfigError("patience needs validation ratings; set validationIndicatorCol")
        interval = self.getCheckpointInterval()
        if interval < 1 and interval != -1:
            raise ConfigError(f"checkpointInterval must be -1 or at least 1, found {interval}")
        self.storage_level("intermediateStorageLevel")
        if self.getFinalStorageLevel() != "NONE":
            self.storage_level("finalStorageLevel")
        self.cold_start_strategy()
        self.bounds()

    def storage_level(self, name: str) -> StorageLevel:
        """The StorageLevel that a parameter names; raise ConfigError if there is no such level, or for NONE."""
        level = self.getOrDefault(name)
        # Data from Python is always serialized, so _SER levels equal those without _SER.
        found = getattr(StorageLevel, level.replace("_SER", ""), None)
        if level == "NONE" or not isinstance(found, StorageLevel):
            raise ConfigError(f"{name} must name a StorageLevel other than NONE, found '{level}'")
        return found

    def value(self, name: str) -> Any:
        """Value of a parameter; None if not set."""
        return self.getOrDefault(name) if self.isDefined(name) else None


class ALSParams(FactorizerParams):
    """The parameters of ALS."""

    numUserBlocks = _setting("numUserBlocks")
    numItemBlocks = _setting("numItemBlocks")
    solver = _setting("solver")
    cgSteps = _setting("cgSteps")
    implicitPrefs = _setting("implicitPrefs")
    alpha = _setting("alpha")
    confidenceOffset = _setting("confidenceOffset")
    unobservedWeight = _setting("unobservedWeight")
    nonnegative = _setting("nonnegative")
    regScaling = _setting("regScaling")

    maxBroadcastBytes = _setting("maxBroadcastBytes")

    getNumUserBlocks = _getter(numUserBlocks)
    setNumUserBlocks = _setter(numUserBlocks)
    getNumItemBlocks = _getter(numItemBlocks)
    setNumItemBlocks = _setter(numItemBlocks)
    getSolver = _getter(solver)
    setSolver = _setter(solver)
    getCgSteps = _getter(cgSteps)
    setCgSteps = _setter(cgSteps)
    getImplicitPrefs = _getter(implicitPrefs)
    setImplicitPrefs = _setter(implicitPrefs)
    getAlpha = _getter(alpha)
    setAlpha = _setter(alpha)
    getConfidenceOffset = _getter(confidenceOffset)
    setConfidenceOffset = _setter(confidenceOffset)
    getUnobservedWeight = _getter(unobservedWeight)
    setUnobservedWeight = _setter(unobservedWeight)
    getNonnegative = _getter(nonnegative)
    setNonnegative = _setter(nonnegative)
    getRegScaling = _getter(regScaling)
    setRegScaling = _setter(regScaling)
    getMaxBroadcastBytes = _getter(maxBroadcastBytes)
    setMaxBroadcastBytes = _setter(maxBroadcastBytes)

    def require_valid(self) -> None:
        """Raise ConfigError if a parameter is out of range or does not work with another."""
        super().require_valid()
        scaling = self.getRegScaling()
        if scaling not in ("count", "none") and not (isinstance(scaling, float) and 0 <= scaling < float("inf")):
            raise ConfigError(f"regScaling must be 'count', 'none' or a number of at least 0, found {scaling!r}")
        is_implicit, is_nonnegative = self.getImplicitPrefs(), self.getNonnegative()
        if self.getBiases() and (is_implicit or is_nonnegative):
            raise ConfigError(
                "biases do not work with implicitPrefs or nonnegative; unset biases, or unset implicitPrefs and "
                "nonnegative"
            )
        if is_nonnegative and self.getSolver() != "cholesky":
            raise ConfigError(f"nonnegative needs solver 'cholesky', found '{self.getSolver()}'")
        if self.isDefined("unobservedWeight") and not is_implicit:
            raise ConfigError("unobservedWeight works with implicit feedback only; set implicitPrefs")
        if is_implicit and self.getAlpha() == 0 and self.getConfidenceOffset() == 0:
            raise ConfigError("alpha and confidenceOffset are both 0, so no rating counts; raise one of them")
        if is_implicit and self.bounds() is not None:
            raise ConfigError("clip is for explicit ratings; predictions of implicit feedback are none; unset it")
        if is_implicit and self.cold_start_strategy() == "mean":
            raise ConfigError("coldStartStrategy 'mean' works with explicit ratings only; choose 'nan' or 'drop'")


class SGDParams(FactorizerParams):
    """The parameters of SGD."""

    learningRate = _setting("learningRate")
    schedule = _setting("schedule")
    decay = _setting("decay")
    numBlocks = _setting("numBlocks")

    getLearningRate = _getter(learningRate)
    setLearningRate = _setter(learningRate)
    getSchedule = _getter(schedule)
    setSchedule = _setter(schedule)
    getDecay = _getter(decay)
    setDecay = _setter(decay)
    getNumBlocks = _getter(numBlocks)
    setNumBlocks = _setter(numBlocks)

    def require_valid(self) -> None:
        """Raise ConfigError if a parameter is out of range or does not work with another."""
        super().require_valid()
        if self.getLearningRate() == 0:
            raise ConfigError("learningRate must be above 0, found 0.0")
