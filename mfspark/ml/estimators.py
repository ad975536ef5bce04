"""The estimators ALS and SGD, with the names and tables of `pyspark.ml.recommendation.ALS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from pyspark import StorageLevel, keyword_only
from pyspark.ml import Estimator
from pyspark.ml.base import _FitMultipleIterator
from pyspark.ml.param import Param
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable, DefaultParamsWriter, MLWriter
from pyspark.sql import DataFrame, SparkSession

from mfspark.blocks.blocked import BlockedRatings
from mfspark.blocks.prepare import BlockConfig, SharedBlocks, blocked_ratings
from mfspark.engine.connect_files import delete_on_server
from mfspark.engine.session import is_connect
from mfspark.errors import ConfigError
from mfspark.ml.model import ALSModel, SGDModel, TrainedBy
from mfspark.ml.params import ALSParams, FactorizerParams, SGDParams
from mfspark.storage.checkpoints import CheckpointFolder
from mfspark.tables.columns import select_ratings
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.checkpoints import StoredCheckpoints
from mfspark.training.factor_tables import FactorTable
from mfspark.training.loop import Algorithm, Checkpoints, LoopConfig
from mfspark.training.objective import Explicit, Implicit, Regularization
from mfspark.training.rows import Solver
from mfspark.training.sgd import StochasticGradientDescent
from mfspark.training.train import TrainingSummary, compile_meanwhile, train

__all__ = ["ALS", "SGD", "ALSModel", "SGDModel"]

# Parameters that may change before a training resumes from a checkpoint.
_RESUMABLE = (
    "maxIter", "tol", "patience", "checkpointPath", "checkpointInterval", "predictionCol", "coldStartStrategy", "clip",
    "blockSize", "intermediateStorageLevel", "finalStorageLevel", "engine",
)  # fmt: skip

_Estimator = TypeVar("_Estimator", bound="_Factorizer")


class _Factorizer(Estimator["ALSModel"], FactorizerParams, DefaultParamsWritable):
    """Fits a model to ratings with any algorithm. See `_fit`: block, train, wrap."""

    _model_class: ClassVar[type[ALSModel]] = ALSModel
    _initial_model: ALSModel | None = None
    continuesExactly: ClassVar[bool]
    """Whether a fit that starts from an initial model gives the same bytes as one uninterrupted fit."""

    @keyword_only
    def setParams(self: _Estimator, **params: Any) -> _Estimator:
        """Set several parameters at once, with the names of the constructor."""
        if "initialModel" in params:
            self.setInitialModel(params.pop("initialModel"))
        unknown = [name for name in params if not self.hasParam(name)]
        if unknown:
            raise TypeError(f"{type(self).__name__} has no parameter '{unknown[0]}'; explainParams() lists its own")
        return self._set(**params)

    def setInitialModel(self: _Estimator, value: ALSModel | None) -> _Estimator:
        """Set the model to start training from; it is not saved with the estimator."""
        self._initial_model = value
        return self

    def write(self) -> MLWriter:
        """Writer of the parameters."""
        return _ParamsWriter(self)

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[dict[Param[Any], Any]]
    ) -> Iterator[tuple[int, ALSModel]]:
        """Models of the parameter maps, each with its number, in any order. Several threads may call the iterator.

        Reads and blocks the ratings once for all maps that need the same blocks.

        Raises
        ------
        ConfigError    checkpointPath is set: the fits would continue from each other's checkpoints
        """
        estimators = [self.copy(values) for values in paramMaps]
        if any(estimator.value("checkpointPath") is not None for estimator in estimators):
            raise ConfigError(
                "several fits cannot share one checkpointPath; unset it, or fit one by one, each with its own path"
            )
        for estimator in estimators:
            estimator.require_valid()
        fits = SharedFits(dataset, estimators, are_once_each=True)
        return _FitMultipleIterator(lambda i: fits.fit(estimators[i]), len(estimators))

    def _fit(self, dataset: DataFrame) -> ALSModel:
        self.require_valid()
        selected = self._ratings_of(dataset)
        compile_meanwhile(self.algorithm())
        with blocked_ratings(selected, self._block_config()) as ratings:
            return self._fit_blocked(ratings)

    def _fit_blocked(self, ratings: BlockedRatings) -> ALSModel:
        loop = LoopConfig(self.getMaxIter(), self.getSeed(), self.getTol(), self.getPatience())
        users, items, summary = train(
            ratings, self.algorithm(), loop, self._table_storage(), self._initial(), self._checkpoints()
        )
        return self.model_of(users, items, summary.global_mean, summary)

    def _ratings_of(self, dataset: DataFrame) -> DataFrame:
        columns = ("userCol", "itemCol", "ratingCol", "weightCol", "validationIndicatorCol")
        return select_ratings(dataset, *map(self.value, columns))

    def model_of(
        self, users: FactorTable, items: FactorTable, global_mean: float, summary: TrainingSummary | None = None
    ) -> ALSModel:
        """The model of these factors, as if this estimator had trained them.

        global_mean : mean training rating
        """
        if self.getFinalStorageLevel() not in ("NONE", "MEMORY_AND_DISK"):
            for factors in (users, items):
                factors.table.persist(self._table_storage())
        algorithm = self.algorithm()
        if algorithm.objective.has_biases:
            algorithm = algorithm.with_mean(global_mean)
        is_nonnegative = self.hasParam("nonnegative") and self.value("nonnegative")
        solver: Solver = "nonnegative" if is_nonnegative else "cholesky"
        exact = AlternatingLeastSquares(algorithm.rank, algorithm.regularization, algorithm.objective, solver)
        model = self._model_class(
            users,
            items,
            rank=algorithm.rank,
            global_mean=None if isinstance(algorithm.objective, Implicit) else global_mean,
            summary=summary,
            trained_by=TrainedBy(exact, self.getRatingCol(), self.value("weightCol")),
        )
        model._resetUid(self.uid)
        return self._copyValues(model)

    def _table_storage(self) -> StorageLevel:
        """Storage level of factor tables that are not in a broadcast."""
        is_kept = self.getFinalStorageLevel() != "NONE"
        return self.storage_level("finalStorageLevel") if is_kept else StorageLevel.MEMORY_AND_DISK

    def _checkpoints(self) -> Callable[[dict[str, Any]], Checkpoints] | None:
        """A function from the fingerprint of the ratings to the checkpoints of the training."""
        path, interval = self.value("checkpointPath"), self.getCheckpointInterval()
        if path is None or interval == -1:
            return None
        settings = {param.name: self.value(param.name) for param in self.params if param.name not in _RESUMABLE}
        folder = CheckpointFolder(SparkSession.active(), path)
        return partial(StoredCheckpoints, folder, interval, {"algorithm": type(self).__name__, **settings})

    def _initial(self) -> tuple[FactorTable, FactorTable] | None:
        """Factors of the initial model."""
        model = self._initial_model
        if model is None:
            return None
        if model.rank != self.getRank():
            raise ConfigError(f"rank must match the initial model: expected {model.rank}, found {self.getRank()}")
        if model.hasBiases != self.getBiases():
            raise ConfigError(
                f"biases must match the initial model: expected {model.hasBiases}, found {self.getBiases()}"
            )
        return model.factorTables

    def algorithm(self) -> Algorithm:
        """The algorithm with these parameters."""
        raise NotImplementedError

    def _block_config(self) -> BlockConfig:
        """Partitioning and storage of the ratings."""
        raise NotImplementedError

    def _regularization(self, scaling: Any = "count") -> Regularization:
        def of(name: str) -> float:
            value: float | None = self.value(name)
            return self.getRegParam() if value is None else value

        return Regularization(
            user=of("userRegParam"), item=of("itemRegParam"), bias=of("biasRegParam"), scaling=scaling
        )


class _ParamsWriter(DefaultParamsWriter):
    """Writer of an estimator's parameters, also on Spark Connect."""

    def _handleOverwrite(self, path: str) -> None:
        if is_connect(self.sparkSession):
            delete_on_server(path)
        else:
            super()._handleOverwrite(path)


class SharedFits:
    """Fits several estimators to the same ratings; reads and blocks them once for all that need the same blocks.

    Parameters
    ----------
    dataset : as for `fit`
    estimators : the estimators to fit, or copies that need the same blocks
    are_once_each : whether each is fitted once; then the last fit releases the blocks, else `close` does

    Thread-safe. Runs on the driver.
    """

    def __init__(self, dataset: DataFrame, estimators: Sequence[_Factorizer], *, are_once_each: bool = False) -> None:
        n_columns = max((estimator._block_config().n_columns for estimator in estimators), default=1)
        keys = [self._key(estimator) for estimator in estimators]
        self._shared = {
            key: SharedBlocks(
                estimator._ratings_of(dataset),
                replace(estimator._block_config(), n_columns=n_columns),
                keys.count(key) if are_once_each else None,
            )
            for key, estimator in zip(keys, estimators, strict=True)
        }

    def fit(self, estimator: _Factorizer) -> ALSModel:
        """The model of one of the estimators."""
        compile_meanwhile(estimator.algorithm())
        with self._shared[self._key(estimator)].borrow() as ratings:
            return estimator._fit_blocked(ratings)

    def close(self) -> None:
        """Release all blocks."""
        for blocks in self._shared.values():
            blocks.release()

    @staticmethod
    def _key(estimator: _Factorizer) -> str:
        """All parameters that change the blocks, except the size of the factors."""
        columns = ("userCol", "itemCol", "ratingCol", "weightCol", "validationIndicatorCol")
        return str([*map(estimator.value, columns), replace(estimator._block_config(), n_columns=1)])


class ALS(_Factorizer, ALSParams, DefaultParamsReadable["ALS"]):
    """Alternating least squares for explicit ratings and implicit feedback.

    Explicit: minimizes Σ (r − x·y)² + λ (|x|² + |y|²) over the observed ratings; λ counts once per rating (ALS-WR:
    Zhou et al., AAIM 2008, section 3.1), as in Spark's ALS. With biases the prediction is mean + b_u + b_i + x·y.

    Implicit: minimizes Σ c (p − x·y)² over all pairs, with p = 1 for ratings above 0, else 0, and c = 1 + α|r|, plus
    λ Σ n (|x|² + |y|²) with n positive ratings per row (Hu, Koren, Volinsky, ICDM 2008), as in Spark's ALS.

    Parameters
    ----------
    rank : int ≥ 1 (10)              number of latent factors
    maxIter : int ≥ 0 (10)           iterations, each solving the items, then the users
    regParam : float ≥ 0 (0.1)       λ
    numUserBlocks, numItemBlocks : int ≥ 0 (10)    tasks of a half-iteration; 0: chosen from the number of ratings and
                                     cores; they change only the last digits of the result
    userCol, itemCol : str ("user", "item")        ids: numbers, strings, booleans, dates, timestamps or binary
    ratingCol : str ("rating")       any numeric type; used as float32
    predictionCol : str ("prediction")
    coldStartStrategy : "nan", "drop" or "mean" ("nan")
    clip : [float, float]            explicit: the least and the greatest rating; transform predicts nothing beyond them
    seed : int (0)                   the same seed, data and blocks give the same bytes
    tol : float ≥ 0 (0)              stop when an iteration lowers the objective by less than this share of it
    validationIndicatorCol : str     boolean column; true rows are used for validation only, after each iteration
    patience : int ≥ 0 (0)           stop after this many iterations without a better validation RMSE, keep the best
    intermediateStorageLevel : str ("MEMORY_AND_DISK")    storage level of the blocked ratings while training
    finalStorageLevel : str ("MEMORY_AND_DISK")    storage level of the factor tables; at the default they read from a
                                     broadcast and are not stored again
    maxBroadcastBytes : int ≥ 0      a side with larger factors keeps them on the executors; not set: half an executor's
                                     memory, divided by its cores
    solver : "cholesky", "cg" or "subspace" ("cholesky")    exact; conjugate gradients from the old factors; or 16
                                     coordinates at a time (iALS++)
    cgSteps : int ≥ 1 (3)            steps of "cg" in each half-iteration
    implicitPrefs : bool (False)     ratings are implicit feedback
    alpha : float ≥ 0 (1.0)          α of the confidence
    confidenceOffset : float ≥ 0 (1.0)    confidence of a rating of 0: c = confidenceOffset + α|r|
    unobservedWeight : float ≥ 0     implicit: add α₀ Σ (x·y)² over all pairs (iALS) instead of a confidence of 1 for
                                     unobserved pairs
    nonnegative : bool (False)       factors ≥ 0, solved exactly
    biases : bool (False)            explicit: a bias for each user and item, solved with the factors
    biasRegParam : float ≥ 0         λ of the biases; regParam if not set
    userRegParam, itemRegParam : float ≥ 0    λ of a side; regParam if not set
    regScaling : "count", "none" or float ("count")    number of times that λ counts for a row: once per (positive)
                                     rating, once, or (n + α₀ n_others)^ν for a power ν (iALS)
    weightCol : str                  column of positive weights; a rating of weight 2 counts twice
    engine : "auto", "local", "rdd" or "connect" ("auto")    where training runs: "local" in the driver's memory on its
                                     threads (on Spark Connect, the client's), "rdd" on the executors, "connect" on
                                     those of a Spark Connect server; "auto" trains locally if ratings and factors are
                                     small, else on the executors
    checkpointPath : str             folder of the fit's checkpoints, on any file system that Spark can write. If it has
                                     a checkpoint of an interrupted fit, or of one with a smaller maxIter, fit continues
                                     from it, to the same bytes as without the interruption. Settings and ratings must
                                     be the same, else fit fails. For one fit at a time
    checkpointInterval : int ≥ 1 or -1 (10)    write a checkpoint after this many iterations, and after the last; -1:
                                     never
    initialModel : ALSModel          start from its factors instead of random ones. With the same ratings and settings
                                     the result is the same to the byte as without the stop. Ids without ratings are
                                     dropped, new ids start from their ratings. Not a `Param`: it is not saved with
                                     the estimator

    >>> als = ALS(rank=64, regParam=0.05, userCol="user_id", itemCol="item_id")
    ... # doctest: +SKIP
    """

    continuesExactly = True

    @keyword_only
    def __init__(
        self,
        *,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numUserBlocks: int = 10,
        numItemBlocks: int = 10,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int | None = None,
        ratingCol: str = "rating",
        coldStartStrategy: str = "nan",
        clip: list[float] | None = None,
        predictionCol: str = "prediction",
        tol: float = 0.0,
        validationIndicatorCol: str | None = None,
        patience: int = 0,
        checkpointInterval: int = 10,
        checkpointPath: str | None = None,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        blockSize: int = 4096,
        solver: str = "cholesky",
        cgSteps: int = 3,
        implicitPrefs: bool = False,
        alpha: float = 1.0,
        confidenceOffset: float = 1.0,
        unobservedWeight: float | None = None,
        nonnegative: bool = False,
        biases: bool = False,
        biasRegParam: float | None = None,
        userRegParam: float | None = None,
        itemRegParam: float | None = None,
        regScaling: str | float = "count",
        weightCol: str | None = None,
        maxBroadcastBytes: int | None = None,
        engine: str = "auto",
        initialModel: ALSModel | None = None,
    ) -> None:
        super().__init__()
        self.setParams(**self._input_kwargs)  # type: ignore[attr-defined]  # set by keyword_only

    def setNumBlocks(self, value: int) -> ALS:
        """Set numUserBlocks and numItemBlocks."""
        return self.setNumUserBlocks(value).setNumItemBlocks(value)

    def algorithm(self) -> AlternatingLeastSquares:
        """ALS with these parameters."""
        of = self.value
        return AlternatingLeastSquares(
            self.getRank(),
            self._regularization(of("regScaling")),
            Implicit(of("alpha"), of("confidenceOffset"), of("unobservedWeight"))
            if of("implicitPrefs")
            else Explicit(has_biases=of("biases")),
            "nonnegative" if of("nonnegative") else of("solver"),
            of("cgSteps"),
        )

    def _block_config(self) -> BlockConfig:
        return BlockConfig(
            self.getNumUserBlocks(),
            self.getNumItemBlocks(),
            self.storage_level("intermediateStorageLevel"),
            self.value("engine"),
            self.getRank() + self.getBiases(),
            self.value("maxBroadcastBytes"),
        )


class SGD(_Factorizer, SGDParams, DefaultParamsReadable["SGD"]):
    """Stochastic gradient descent for explicit ratings, distributed by strata (Gemulla et al., KDD 2011).

    Minimizes the objective of ALS; an iteration is an epoch, one step for each rating. Other parameters as for ALS.

    Parameters
    ----------
    learningRate : float > 0 (0.02)  η
    schedule : "constant", "inverse", "bold" or "adagrad" ("inverse")    η of epoch t: η; η / (1 + decay·(t − 1)); 5 %
                                     more after an epoch that lowered the objective, else half; per row, by its
                                     gradients
    decay : float ≥ 0 (0.1)          decay of "inverse"
    initialModel : ALSModel          start from its factors, with the schedule of a new training; new ids start from
                                     random factors
    numBlocks : int ≥ 1 (4)          ranges of users and of items; also tasks per stratum and strata per epoch. The
                                     result depends on it, but not on the scheduling of tasks
    """

    _model_class = SGDModel
    continuesExactly = False  # the schedule restarts

    @keyword_only
    def __init__(
        self,
        *,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numBlocks: int = 4,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int | None = None,
        ratingCol: str = "rating",
        coldStartStrategy: str = "nan",
        clip: list[float] | None = None,
        predictionCol: str = "prediction",
        tol: float = 0.0,
        validationIndicatorCol: str | None = None,
        patience: int = 0,
        checkpointInterval: int = 10,
        checkpointPath: str | None = None,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        blockSize: int = 4096,
        learningRate: float = 0.02,
        schedule: str = "inverse",
        decay: float = 0.1,
        biases: bool = False,
        biasRegParam: float | None = None,
        userRegParam: float | None = None,
        itemRegParam: float | None = None,
        weightCol: str | None = None,
        engine: str = "auto",
        initialModel: ALSModel | None = None,
    ) -> None:
        super().__init__()
        self.setParams(**self._input_kwargs)  # type: ignore[attr-defined]  # set by keyword_only

    def algorithm(self) -> StochasticGradientDescent:
        """SGD with these parameters."""
        of = self.value
        return StochasticGradientDescent(
            self.getRank(),
            self._regularization(),
            Explicit(has_biases=of("biases")),
            of("learningRate"),
            of("schedule"),
            of("decay"),
            self.getSeed(),
        )

    def _block_config(self) -> BlockConfig:
        return BlockConfig(
            self.getNumBlocks(),
            self.getNumBlocks(),
            self.storage_level("intermediateStorageLevel"),
            self.value("engine"),
            self.getRank() + self.getBiases(),
            are_rows_whole=True,  # each row is in one cell of a stratum
        )
