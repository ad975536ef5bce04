"""Parameters of the estimators and of their models: those of Spark's ALS, and what is added."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

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


def require_in_range(params: Params, minimums: dict[str, int]) -> None:
    """Raise ConfigError when a number is below its minimum or not finite; parameters without a value may be."""
    for name, minimum in minimums.items():
        value = params.getOrDefault(name) if params.isDefined(name) else None
        if value is not None and not minimum <= value < float("inf"):
            raise ConfigError(f"{name} must be finite and at least {minimum}, found {value}")


def require_choice(params: Params, name: str, *choices: str) -> None:
    """Raise ConfigError when a parameter of a few choices has none of them."""
    found = params.getOrDefault(name)
    if found not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, choices))}, found '{found}'")


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

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(userCol="user", itemCol="item", coldStartStrategy="nan", blockSize=4096)

    getUserCol = _getter(userCol)
    setUserCol = _setter(userCol)
    getItemCol = _getter(itemCol)
    setItemCol = _setter(itemCol)
    getColdStartStrategy = _getter(coldStartStrategy)
    setColdStartStrategy = _setter(coldStartStrategy)
    setPredictionCol = _setter(HasPredictionCol.predictionCol)
    setBlockSize = _setter(HasBlockSize.blockSize)

    def cold_start_strategy(self) -> str:
        """'nan', 'drop' or 'mean', in whatever case it was given; raise ConfigError when it is none of them."""
        strategy = self.getColdStartStrategy().lower()
        if strategy not in ("nan", "drop", "mean"):
            raise ConfigError(f"coldStartStrategy must be 'nan', 'drop' or 'mean', found '{strategy}'")
        return strategy


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
    """What all estimators have."""

    rank = _param("rank", "number of latent factors (>= 1)", TypeConverters.toInt)
    ratingCol = _param("ratingCol", "column name for ratings", TypeConverters.toString)
    patience = _param(
        "patience",
        "iterations without a better validation RMSE after which training stops (0 never stops)",
        TypeConverters.toInt,
    )
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
    biases = _param("biases", "whether users and items have biases", TypeConverters.toBoolean)
    biasRegParam = _param(
        "biasRegParam", "regularization of the biases (>= 0); regParam where it is not set", TypeConverters.toFloat
    )
    userRegParam = _param(
        "userRegParam", "regularization of the users (>= 0); regParam where it is not set", TypeConverters.toFloat
    )
    itemRegParam = _param(
        "itemRegParam", "regularization of the items (>= 0); regParam where it is not set", TypeConverters.toFloat
    )

    engine = _param(
        "engine",
        "where training runs: 'local' in the driver's memory on its threads, 'rdd' on the executors, 'auto' locally "
        "where ratings and factors are small",
        TypeConverters.toString,
    )

    _minimums: ClassVar[dict[str, int]] = {
        **dict.fromkeys(["rank", "blockSize"], 1),
        **dict.fromkeys(["maxIter", "regParam", "tol", "patience", "userRegParam", "itemRegParam", "biasRegParam"], 0),
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            rank=10,
            maxIter=10,
            regParam=0.1,
            ratingCol="rating",
            seed=0,
            tol=0.0,
            patience=0,
            checkpointInterval=10,
            intermediateStorageLevel="MEMORY_AND_DISK",
            finalStorageLevel="MEMORY_AND_DISK",
            biases=False,
            engine="auto",
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
        """Raise ConfigError when a parameter is outside its range, or has no meaning beside another."""
        require_in_range(self, self._minimums)
        if self.getPatience() and not self.isDefined("validationIndicatorCol"):
            raise ConfigError("patience needs validation ratings; set validationIndicatorCol")
        interval = self.getCheckpointInterval()
        if interval < 1 and interval != -1:
            raise ConfigError(f"checkpointInterval must be -1 or at least 1, found {interval}")
        require_choice(self, "engine", "auto", "local", "rdd")
        self.storage_level("intermediateStorageLevel")
        if self.getFinalStorageLevel() != "NONE":
            self.storage_level("finalStorageLevel")
        self.cold_start_strategy()

    def storage_level(self, name: str) -> StorageLevel:
        """The StorageLevel that a parameter names; raise ConfigError when it names none, or NONE."""
        level = self.getOrDefault(name)
        # What comes from Python is serialized anyway: the JVM's levels _SER are those without.
        found = getattr(StorageLevel, level.replace("_SER", ""), None)
        if level == "NONE" or not isinstance(found, StorageLevel):
            raise ConfigError(f"{name} must name a StorageLevel other than NONE, found '{level}'")
        return found

    def value(self, name: str) -> Any:
        """Value of a parameter; None where it has none."""
        return self.getOrDefault(name) if self.isDefined(name) else None


class ALSParams(FactorizerParams):
    """What ALS has besides."""

    numUserBlocks = _param(
        "numUserBlocks", "number of user blocks (0: as many as suit the ratings and cores)", TypeConverters.toInt
    )
    numItemBlocks = _param(
        "numItemBlocks", "number of item blocks (0: as many as suit the ratings and cores)", TypeConverters.toInt
    )
    solver = _param(
        "solver",
        "how a row is solved: 'cholesky' exactly, 'cg' by steps of conjugate gradients from where it stands, "
        "'subspace' by exact steps of 16 coordinates",
        TypeConverters.toString,
    )
    cgSteps = _param(
        "cgSteps", "steps of conjugate gradients in a half-iteration (>= 1), where solver is 'cg'", TypeConverters.toInt
    )
    implicitPrefs = _param("implicitPrefs", "whether the ratings are implicit feedback", TypeConverters.toBoolean)
    alpha = _param("alpha", "alpha of the confidence in implicit feedback (>= 0)", TypeConverters.toFloat)
    confidenceOffset = _param("confidenceOffset", "confidence in implicit feedback of 0 (>= 0)", TypeConverters.toFloat)
    unobservedWeight = _param(
        "unobservedWeight",
        "weight of the squared prediction of every pair (>= 0), instead of a confidence of 1 in unobserved pairs",
        TypeConverters.toFloat,
    )
    nonnegative = _param("nonnegative", "whether factors must be >= 0", TypeConverters.toBoolean)
    regScaling = _param(
        "regScaling",
        "how often the regularization counts for a row: 'count' of its ratings, 'none', or a power of the count",
        _to_scaling,
    )

    maxBroadcastBytes = _param(
        "maxBroadcastBytes",
        "size of a side's factors beyond which they are not broadcast but exchanged block to block (>= 0; half the "
        "memory of an executor for each of its cores, where it is not set)",
        TypeConverters.toInt,
    )

    _minimums: ClassVar[dict[str, int]] = {
        **FactorizerParams._minimums,
        "cgSteps": 1,
        **dict.fromkeys(
            ["numUserBlocks", "numItemBlocks", "alpha", "confidenceOffset", "unobservedWeight", "maxBroadcastBytes"], 0
        ),
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            numUserBlocks=10,
            numItemBlocks=10,
            solver="cholesky",
            cgSteps=3,
            implicitPrefs=False,
            alpha=1.0,
            confidenceOffset=1.0,
            nonnegative=False,
            regScaling="count",
        )

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
        """Raise ConfigError when a parameter is outside its range, or has no meaning beside another."""
        super().require_valid()
        require_choice(self, "solver", "cholesky", "cg", "subspace")
        scaling = self.getRegScaling()
        if scaling not in ("count", "none") and not (isinstance(scaling, float) and 0 <= scaling < float("inf")):
            raise ConfigError(f"regScaling must be 'count', 'none' or a number of at least 0, found {scaling!r}")
        is_implicit, is_nonnegative = self.getImplicitPrefs(), self.getNonnegative()
        if self.getBiases() and (is_implicit or is_nonnegative):
            raise ConfigError(
                "biases are for explicit ratings and factors of any sign; unset biases or implicitPrefs, nonnegative"
            )
        if is_nonnegative and self.getSolver() != "cholesky":
            raise ConfigError("nonnegative factors are solved exactly; leave solver at 'cholesky'")
        if self.isDefined("unobservedWeight") and not is_implicit:
            raise ConfigError("unobservedWeight is for implicit feedback; set implicitPrefs")
        if is_implicit and self.getAlpha() == 0 and self.getConfidenceOffset() == 0:
            raise ConfigError("alpha and confidenceOffset are both 0, so that no rating counts; raise one of them")
        if is_implicit and self.cold_start_strategy() == "mean":
            raise ConfigError("coldStartStrategy 'mean' is for explicit ratings; choose 'nan' or 'drop'")


class SGDParams(FactorizerParams):
    """What SGD has besides."""

    learningRate = _param("learningRate", "step of a rating (> 0)", TypeConverters.toFloat)
    schedule = _param(
        "schedule",
        "how the learning rate changes: 'constant', 'inverse', 'bold' or 'adagrad'",
        TypeConverters.toString,
    )
    decay = _param("decay", "decay of the schedule 'inverse' (>= 0)", TypeConverters.toFloat)
    numBlocks = _param("numBlocks", "number of user blocks and of item blocks (>= 1)", TypeConverters.toInt)

    _minimums: ClassVar[dict[str, int]] = {**FactorizerParams._minimums, "numBlocks": 1, "learningRate": 0, "decay": 0}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(numBlocks=4, learningRate=0.02, schedule="inverse", decay=0.1)

    getLearningRate = _getter(learningRate)
    setLearningRate = _setter(learningRate)
    getSchedule = _getter(schedule)
    setSchedule = _setter(schedule)
    getDecay = _getter(decay)
    setDecay = _setter(decay)
    getNumBlocks = _getter(numBlocks)
    setNumBlocks = _setter(numBlocks)

    def require_valid(self) -> None:
        """Raise ConfigError when a parameter is outside its range, or has no meaning beside another."""
        super().require_valid()
        require_choice(self, "schedule", "constant", "inverse", "bold", "adagrad")
        if self.getLearningRate() == 0:
            raise ConfigError("learningRate must be above 0, found 0.0")
