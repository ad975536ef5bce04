"""The estimators: block-ALS and SGD, with the names and tables of `pyspark.ml.recommendation.ALS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple, TypeVar

from pyspark import StorageLevel, keyword_only
from pyspark.ml import Estimator, Model
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasMaxIter,
    HasPredictionCol,
    HasRegParam,
    HasSeed,
    HasTol,
    HasValidationIndicatorCol,
    HasWeightCol,
)
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark.errors import ConfigError, SchemaError
from mfspark.solvers.als import AlternatingLeastSquares
from mfspark.solvers.blocks import Side
from mfspark.solvers.loop import LoopConfig, Solver
from mfspark.solvers.objective import Explicit, Implicit, Regularization
from mfspark.solvers.sgd import StochasticGradientDescent
from mfspark.stages.columns import (
    column,
    require_boolean_column,
    require_columns,
    require_id_column,
    require_numeric_column,
)
from mfspark.stages.fold_in import fold_in
from mfspark.stages.predict import predict
from mfspark.stages.publish import FactorTable
from mfspark.stages.recommend import recommend
from mfspark.stages.train import BlockConfig, TrainingSummary, train_model

_Value = TypeVar("_Value")
_Estimator = TypeVar("_Estimator", bound="_Factorizer")


def _to_scaling(value: Any) -> str | float:
    return value if isinstance(value, str) else TypeConverters.toFloat(value)


def _param(name: str, doc: str, converter: Callable[[Any], _Value]) -> Param[_Value]:
    return Param(Params._dummy(), name, doc, typeConverter=converter)


class _ModelParams(HasPredictionCol):
    """Parameters that the estimator and its model share."""

    userCol: Param[str] = _param("userCol", "column name for user ids", TypeConverters.toString)
    itemCol: Param[str] = _param("itemCol", "column name for item ids", TypeConverters.toString)
    coldStartStrategy: Param[str] = _param(
        "coldStartStrategy",
        "what transform does with pairs of an unknown user or item: 'nan' predicts NaN, 'drop' leaves them out",
        TypeConverters.toString,
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(userCol="user", itemCol="item", coldStartStrategy="nan")

    def getUserCol(self) -> str:
        """Column name for user ids."""
        return self.getOrDefault(self.userCol)

    def getItemCol(self) -> str:
        """Column name for item ids."""
        return self.getOrDefault(self.itemCol)

    def getColdStartStrategy(self) -> str:
        """'nan' or 'drop'."""
        return self.getOrDefault(self.coldStartStrategy)


class _Training(NamedTuple):
    """What folding in needs to know of the training."""

    solver: AlternatingLeastSquares
    """What solves a row as training did, exactly."""
    rating_column: str
    weight_column: str | None

    def to_json(self) -> dict[str, Any]:
        """For the metadata of a stored model."""
        return {**asdict(self.solver), "rating_column": self.rating_column, "weight_column": self.weight_column}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> _Training:
        """What `to_json` made."""
        objective = stored["objective"]
        solver = AlternatingLeastSquares(
            stored["rank"],
            Regularization(**stored["regularization"]),
            Implicit(**objective) if "alpha" in objective else Explicit(**objective),
            stored["method"],
        )
        return cls(solver, stored["rating_column"], stored["weight_column"])


class ALSModel(Model, _ModelParams, MLWritable, MLReadable["ALSModel"]):
    """Factors by raw id, and what follows from them.

    Parameters
    ----------
    user_factors, item_factors : factors by raw id
    rank : number of latent factors
    global_mean : what predictions start from where there are biases
    summary : what training did; None for a model that was loaded
    training : what folding in needs to know of the training
    """

    def __init__(
        self,
        user_factors: FactorTable | None = None,
        item_factors: FactorTable | None = None,
        rank: int = 0,
        global_mean: float = 0.0,
        summary: TrainingSummary | None = None,
        training: _Training | None = None,
    ) -> None:
        super().__init__()
        self._user_factors, self._item_factors = user_factors, item_factors
        self._rank, self._global_mean, self._summary, self._training = rank, global_mean, summary, training

    def setUserCol(self, value: str) -> ALSModel:
        """Set the column name for user ids."""
        return self._set(userCol=value)

    def setItemCol(self, value: str) -> ALSModel:
        """Set the column name for item ids."""
        return self._set(itemCol=value)

    @property
    def rank(self) -> int:
        """Number of latent factors."""
        return self._rank

    @property
    def globalMean(self) -> float:
        """Mean training rating, which predictions start from where there are biases; else 0."""
        return self._global_mean

    @property
    def userFactors(self) -> DataFrame:
        """Factors of every user: id, features array<float>, and, where there are biases, bias float."""
        return _present(self._user_factors).table

    @property
    def itemFactors(self) -> DataFrame:
        """Factors of every item: id, features array<float>, and, where there are biases, bias float."""
        return _present(self._item_factors).table

    @property
    def hasSummary(self) -> bool:
        """Whether this model was trained here, not loaded."""
        return self._summary is not None

    @property
    def summary(self) -> TrainingSummary:
        """What training did, iteration by iteration."""
        if self._summary is None:
            raise RuntimeError("a loaded model has no training summary; look in the metrics of the run that made it")
        return self._summary

    def foldInUsers(self, ratings: DataFrame) -> ALSModel:
        """A model of the users of these ratings, whom training need not have seen, and of the same items.

        Each user's factors are the exact answer to the item factors, as of a half-iteration of the training. The new
        model predicts and recommends: `model.foldInUsers(r).recommendForAllUsers(10, seen=r)`.

        ratings : userCol, itemCol, and the columns of ratings and weights that training had. Ratings of items that the
            model does not know are ignored; a user who has no others is not in the new model

        Raises
        ------
        DataError         ratings that cannot be used, or none of an item that the model knows
        NumericalError    a user's normal equation has no unique solution

        Cost: a shuffle of the ratings and n_ratings·rank² multiply-adds when it is called; the new factors pass through
        the driver.
        """
        return self._with_folded("user", ratings)

    def foldInItems(self, ratings: DataFrame) -> ALSModel:
        """A model of the items of these ratings and of the same users; as foldInUsers, with the sides exchanged."""
        return self._with_folded("item", ratings)

    def _with_folded(self, side: Side, ratings: DataFrame) -> ALSModel:
        if self._training is None:
            raise RuntimeError(
                "this model does not know how it was trained; fold in with one from ALS.fit or ALSModel.load"
            )
        solver, rating_column, weight_column = self._training
        selected = _select_ratings(ratings, self.getUserCol(), self.getItemCol(), rating_column, weight_column)
        known = _present(self._item_factors if side == "user" else self._user_factors)
        folded = fold_in(selected, side, known, solver)
        model = self.copy()
        if side == "user":
            model._user_factors = folded
        else:
            model._item_factors = folded
        model._summary = None
        return model

    def _transform(self, dataset: DataFrame) -> DataFrame:
        require_columns(dataset, [self.getUserCol(), self.getItemCol()])
        if self.getPredictionCol().lower() in {name.lower() for name in dataset.columns}:
            raise SchemaError(
                f"column '{self.getPredictionCol()}' already exists; drop it or set another predictionCol"
            )
        predictions = predict(
            dataset,
            self.userFactors,
            self.itemFactors,
            self.globalMean,
            self.getUserCol(),
            self.getItemCol(),
            self.getPredictionCol(),
        )
        if _cold_start_strategy(self) == "drop":
            return predictions.where(~F.isnan(column(self.getPredictionCol())))
        return predictions

    def recommendForAllUsers(self, numItems: int, seen: DataFrame | None = None) -> DataFrame:
        """Best numItems items of every user.

        Parameters
        ----------
        numItems : int ≥ 1
        seen : ratings, or any pairs in userCol and itemCol, whose items their users shall not get again

        Returns
        -------
        DataFrame    userCol, recommendations array<struct<itemCol, rating float>>, best first; exactly
                     min(numItems, unseen) entries a user, equal scores in ascending order of the item
        """
        return self._recommend(numItems, seen, self.getUserCol(), self.getItemCol())

    def recommendForAllItems(self, numUsers: int, seen: DataFrame | None = None) -> DataFrame:
        """Best numUsers users of every item; as recommendForAllUsers, with the sides exchanged."""
        return self._recommend(numUsers, seen, self.getItemCol(), self.getUserCol())

    def _recommend(self, n: int, seen: DataFrame | None, for_column: str, of_column: str) -> DataFrame:
        if n < 1:
            raise ConfigError(f"the number of recommendations must be at least 1, found {n}")
        is_for_users = for_column == self.getUserCol()
        rows, candidates = _present(self._user_factors), _present(self._item_factors)
        if not is_for_users:
            rows, candidates = candidates, rows
        if seen is not None:
            require_columns(seen, [for_column, of_column])
            seen = seen.select(column(for_column).alias("id"), column(of_column).alias("item_id"))
        best = recommend(rows, candidates, self.globalMean, n, seen)
        return best.select(
            F.col("id").alias(for_column),
            F.transform(
                "recommendations",
                lambda entry: F.struct(entry["id"].alias(of_column), entry["rating"].alias("rating")),
            ).alias("recommendations"),
        )

    def write(self) -> MLWriter:
        """Writer of the folder metadata/, userFactors/, itemFactors/."""
        return _ALSModelWriter(self)

    @classmethod
    def read(cls) -> _ALSModelReader:
        """Reader of what `write` wrote."""
        return _ALSModelReader(cls)


class SGDModel(ALSModel):
    """Model of SGD: the same tables, the same methods."""


class _ALSModelWriter(MLWriter):
    def __init__(self, model: ALSModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        model = self._model
        spark = model.userFactors.sparkSession
        extra = {
            "rank": model.rank,
            "globalMean": model.globalMean,
            "training": model._training and model._training.to_json(),
        }
        DefaultParamsWriter.saveMetadata(model, path, spark, extraMetadata=extra)
        model.userFactors.write.parquet(f"{path}/userFactors")
        model.itemFactors.write.parquet(f"{path}/itemFactors")


class _ALSModelReader(MLReader[ALSModel]):
    def __init__(self, model_class: type[ALSModel]) -> None:
        super().__init__()
        self._model_class = model_class

    def load(self, path: str) -> ALSModel:
        spark: SparkSession = self.sparkSession
        metadata = DefaultParamsReader.loadMetadata(path, spark)
        model = self._model_class(
            FactorTable.of(spark.read.parquet(f"{path}/userFactors")),
            FactorTable.of(spark.read.parquet(f"{path}/itemFactors")),
            metadata["rank"],
            metadata["globalMean"],
            training=metadata["training"] and _Training.from_json(metadata["training"]),
        )
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model


def _present(factors: FactorTable | None) -> FactorTable:
    if factors is None:
        raise RuntimeError("this ALSModel has no factors; get one from ALS.fit or ALSModel.load")
    return factors


class _Factorizer(
    Estimator["ALSModel"],
    _ModelParams,
    HasMaxIter,
    HasRegParam,
    HasSeed,
    HasTol,
    HasValidationIndicatorCol,
    HasWeightCol,
    DefaultParamsWritable,
):
    """What the estimators have in common: parameters, and the way from ratings to a model."""

    rank: Param[int] = _param("rank", "number of latent factors (>= 1)", TypeConverters.toInt)
    ratingCol: Param[str] = _param("ratingCol", "column name for ratings", TypeConverters.toString)
    patience: Param[int] = _param(
        "patience",
        "iterations without a better validation RMSE after which training stops (0 never stops)",
        TypeConverters.toInt,
    )
    intermediateStorageLevel: Param[str] = _param(
        "intermediateStorageLevel", "StorageLevel of the blocked ratings; not 'NONE'", TypeConverters.toString
    )
    biases: Param[bool] = _param("biases", "whether users and items have biases", TypeConverters.toBoolean)
    biasRegParam: Param[float] = _param(
        "biasRegParam", "regularization of the biases (>= 0); regParam where it is not set", TypeConverters.toFloat
    )
    userRegParam: Param[float] = _param(
        "userRegParam", "regularization of the users (>= 0); regParam where it is not set", TypeConverters.toFloat
    )
    itemRegParam: Param[float] = _param(
        "itemRegParam", "regularization of the items (>= 0); regParam where it is not set", TypeConverters.toFloat
    )

    _model_class: ClassVar[type[ALSModel]] = ALSModel
    _minimums: ClassVar[dict[str, int]] = {
        "rank": 1,
        **dict.fromkeys(["maxIter", "regParam", "tol", "patience", "userRegParam", "itemRegParam", "biasRegParam"], 0),
    }

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(
            rank=10,
            maxIter=10,
            regParam=0.1,
            ratingCol="rating",
            seed=0,
            tol=0.0,
            patience=0,
            intermediateStorageLevel="MEMORY_AND_DISK",
            biases=False,
        )

    @keyword_only
    def setParams(self: _Estimator, **params: Any) -> _Estimator:
        """Set several parameters at once, by the names of the constructor."""
        return self._set(**params)

    def getRank(self) -> int:
        """Number of latent factors."""
        return self.getOrDefault(self.rank)

    def getRatingCol(self) -> str:
        """Column name for ratings."""
        return self.getOrDefault(self.ratingCol)

    def setWeightCol(self: _Estimator, value: str) -> _Estimator:
        """Set the name of the column of weights."""
        return self._set(weightCol=value)

    def setValidationIndicatorCol(self: _Estimator, value: str) -> _Estimator:
        """Set the name of the boolean column that is true for validation rows."""
        return self._set(validationIndicatorCol=value)

    def _fit(self, dataset: DataFrame) -> ALSModel:
        self._require_in_range()
        storage = getattr(StorageLevel, self.getOrDefault(self.intermediateStorageLevel))
        solver, weight_column = self._solver(), self._value("weightCol")
        ratings = _select_ratings(
            dataset,
            self.getUserCol(),
            self.getItemCol(),
            self.getRatingCol(),
            weight_column,
            self._value("validationIndicatorCol"),
        )
        trained = train_model(
            ratings,
            solver,
            BlockConfig(*self._n_blocks(), storage),
            LoopConfig(
                max_iter=self.getMaxIter(),
                seed=self.getSeed(),
                tol=self.getTol(),
                patience=self.getOrDefault(self.patience),
            ),
        )
        summary = trained.summary
        if solver.objective.has_biases:
            solver = solver.with_mean(summary.global_mean)
        is_nonnegative = self.hasParam("nonnegative") and self.getOrDefault("nonnegative")
        exact = AlternatingLeastSquares(
            solver.rank, solver.regularization, solver.objective, "nonnegative" if is_nonnegative else "cholesky"
        )
        model = self._model_class(
            trained.user_factors,
            trained.item_factors,
            solver.rank,
            summary.global_mean,
            summary,
            _Training(exact, self.getRatingCol(), weight_column),
        )
        model._resetUid(self.uid)
        return self._copyValues(model)

    def _solver(self) -> Solver:
        """How factors get better, by these parameters."""
        raise NotImplementedError

    def _n_blocks(self) -> tuple[int, int]:
        """Numbers of user blocks and item blocks."""
        raise NotImplementedError

    def _value(self, name: str) -> Any:
        """Value of a parameter; None where it has none."""
        return self.getOrDefault(name) if self.isDefined(name) else None

    def _regularization(self, scaling: Any = "count") -> Regularization:
        def of(name: str) -> float:
            value = self._value(name)
            return self.getRegParam() if value is None else value

        return Regularization(
            user=of("userRegParam"), item=of("itemRegParam"), bias=of("biasRegParam"), scaling=scaling
        )

    def _require_in_range(self) -> None:
        """Raise ConfigError when a parameter is outside its range, or has no meaning beside another."""
        for name, minimum in self._minimums.items():
            value = self._value(name)
            if value is not None and not minimum <= value < float("inf"):
                raise ConfigError(f"{name} must be finite and at least {minimum}, found {value}")
        if self.getOrDefault("patience") and not self.isDefined("validationIndicatorCol"):
            raise ConfigError("patience needs validation ratings; set validationIndicatorCol")
        level = self.getOrDefault("intermediateStorageLevel")
        if level == "NONE" or not isinstance(getattr(StorageLevel, level, None), StorageLevel):
            raise ConfigError(f"intermediateStorageLevel must name a StorageLevel other than NONE, found '{level}'")
        _cold_start_strategy(self)

    def _require_choice(self, name: str, *choices: str) -> None:
        found = self.getOrDefault(name)
        if found not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(map(repr, choices))}, found '{found}'")


class ALS(_Factorizer, DefaultParamsReadable["ALS"]):
    """Alternating least squares for explicit ratings and implicit feedback.

    Explicit: minimises Σ (r − x·y)² + λ (|x|² + |y|²) over the observed ratings; λ counts once per rating (ALS-WR:
    Zhou et al., AAIM 2008, section 3.1), as in Spark's ALS. With biases the prediction is mean + b_u + b_i + x·y.

    Implicit: minimises Σ c (p − x·y)² over all pairs, p = 1 for ratings above 0 and else 0, c = 1 + α|r|, plus
    λ Σ n (|x|² + |y|²) with the numbers n of positive ratings (Hu, Koren, Volinsky, ICDM 2008), as in Spark's ALS.

    Parameters
    ----------
    rank : int ≥ 1 (10)              number of latent factors
    maxIter : int ≥ 0 (10)           iterations, each solving the items, then the users
    regParam : float ≥ 0 (0.1)       λ
    numUserBlocks, numItemBlocks : int ≥ 1 (10)    tasks of a half-iteration; the result does not depend on them
    userCol, itemCol : str ("user", "item")        ids: integers, strings or decimals
    ratingCol : str ("rating")       any numeric type; used as float32
    predictionCol : str ("prediction")
    coldStartStrategy : "nan" or "drop" ("nan")
    seed : int (0)                   the same seed and data give the same bytes
    tol : float ≥ 0 (0)              stop when an iteration lowers the objective by less than this share of it
    validationIndicatorCol : str     boolean column; rows that are true only judge each iteration
    patience : int ≥ 0 (0)           stop after so many iterations without a better validation RMSE, keep the best
    intermediateStorageLevel : str ("MEMORY_AND_DISK")    where the blocked ratings are kept while training
    solver : "cholesky", "cg" or "subspace" ("cholesky")    exact; conjugate gradients from the factors before; or
                                     16 coordinates at a time (iALS++)
    cgSteps : int ≥ 1 (3)            steps of "cg" in each half-iteration
    implicitPrefs : bool (False)     ratings are implicit feedback
    alpha : float ≥ 0 (1.0)          α of the confidence
    confidenceOffset : float ≥ 0 (1.0)    confidence of a rating of 0: c = confidenceOffset + α|r|
    unobservedWeight : float > 0     implicit: α₀, count α₀ Σ (x·y)² over all pairs (iALS) instead of a confidence of 1
                                     for unobserved ones
    nonnegative : bool (False)       factors ≥ 0, exactly
    biases : bool (False)            explicit: a bias of each user and item, solved with the factors
    biasRegParam : float ≥ 0         λ of the biases; regParam where it is not set
    userRegParam, itemRegParam : float ≥ 0    λ of a side; regParam where it is not set
    regScaling : "count", "none" or float ("count")    how often λ counts for a row: once per (positive) rating, once,
                                     or (n + α₀ n_others)^ν for a power ν (iALS)
    weightCol : str                  column of positive weights; a weight of 2 is the rating twice

    >>> als = ALS(rank=64, regParam=0.05, userCol="user_id", itemCol="item_id")
    ... # doctest: +SKIP
    """

    numUserBlocks: Param[int] = _param("numUserBlocks", "number of user blocks (>= 1)", TypeConverters.toInt)
    numItemBlocks: Param[int] = _param("numItemBlocks", "number of item blocks (>= 1)", TypeConverters.toInt)
    solver: Param[str] = _param(
        "solver",
        "how a row is solved: 'cholesky' exactly, 'cg' by steps of conjugate gradients from where it stands, "
        "'subspace' by exact steps of 16 coordinates",
        TypeConverters.toString,
    )
    cgSteps: Param[int] = _param(
        "cgSteps", "steps of conjugate gradients in a half-iteration (>= 1), where solver is 'cg'", TypeConverters.toInt
    )
    implicitPrefs: Param[bool] = _param(
        "implicitPrefs", "whether the ratings are implicit feedback", TypeConverters.toBoolean
    )
    alpha: Param[float] = _param("alpha", "alpha of the confidence in implicit feedback (>= 0)", TypeConverters.toFloat)
    confidenceOffset: Param[float] = _param(
        "confidenceOffset", "confidence in implicit feedback of 0 (>= 0)", TypeConverters.toFloat
    )
    unobservedWeight: Param[float] = _param(
        "unobservedWeight",
        "weight of the squared prediction of every pair (> 0), instead of a confidence of 1 in unobserved pairs",
        TypeConverters.toFloat,
    )
    nonnegative: Param[bool] = _param("nonnegative", "whether factors must be >= 0", TypeConverters.toBoolean)
    regScaling: Param[str | float] = _param(
        "regScaling",
        "how often the regularization counts for a row: 'count' of its ratings, 'none', or a power of the count",
        _to_scaling,
    )

    _minimums: ClassVar[dict[str, int]] = {
        **_Factorizer._minimums,
        **dict.fromkeys(["numUserBlocks", "numItemBlocks", "cgSteps"], 1),
        **dict.fromkeys(["alpha", "confidenceOffset", "unobservedWeight"], 0),
    }

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
        seed: int = 0,
        ratingCol: str = "rating",
        coldStartStrategy: str = "nan",
        predictionCol: str = "prediction",
        tol: float = 0.0,
        validationIndicatorCol: str | None = None,
        patience: int = 0,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
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
    ) -> None:
        super().__init__()
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
        self._set(**self._input_kwargs)  # type: ignore[attr-defined]  # set by keyword_only

    def _solver(self) -> AlternatingLeastSquares:
        of = self._value
        return AlternatingLeastSquares(
            self.getRank(),
            self._regularization(of("regScaling")),
            Implicit(of("alpha"), of("confidenceOffset"), of("unobservedWeight"))
            if of("implicitPrefs")
            else Explicit(has_biases=of("biases")),
            "nonnegative" if of("nonnegative") else of("solver"),
            of("cgSteps"),
        )

    def _n_blocks(self) -> tuple[int, int]:
        return self.getOrDefault(self.numUserBlocks), self.getOrDefault(self.numItemBlocks)

    def _require_in_range(self) -> None:
        super()._require_in_range()
        self._require_choice("solver", "cholesky", "cg", "subspace")
        scaling = self.getOrDefault("regScaling")
        if scaling not in ("count", "none") and not (isinstance(scaling, float) and 0 <= scaling < float("inf")):
            raise ConfigError(f"regScaling must be 'count', 'none' or a number of at least 0, found {scaling!r}")
        is_implicit, is_nonnegative = self.getOrDefault("implicitPrefs"), self.getOrDefault("nonnegative")
        if self.getOrDefault("biases") and (is_implicit or is_nonnegative):
            raise ConfigError(
                "biases are for explicit ratings and factors of any sign; unset implicitPrefs, nonnegative"
            )
        if is_nonnegative and self.getOrDefault("solver") != "cholesky":
            raise ConfigError("nonnegative factors are solved exactly; leave solver at 'cholesky'")
        if self.isDefined("unobservedWeight") and not is_implicit:
            raise ConfigError("unobservedWeight is for implicit feedback; set implicitPrefs")


class SGD(_Factorizer, DefaultParamsReadable["SGD"]):
    """Stochastic gradient descent for explicit ratings, distributed by strata (Gemulla et al., KDD 2011).

    Minimises what ALS minimises; an iteration is an epoch, one step for each rating. Parameters as for ALS, but:

    Parameters
    ----------
    learningRate : float > 0 (0.02)  η
    schedule : "constant", "inverse", "bold" or "adagrad" ("inverse")    η of epoch t: η; η / (1 + decay·(t − 1)); 5 %
                                     more after an epoch that lowered the objective, half after another; of each row by
                                     its gradients
    decay : float ≥ 0 (0.1)          of "inverse"
    numBlocks : int ≥ 1 (4)          ranges of users and of items; tasks of a stratum and strata of an epoch. The result
                                     depends on it, but not on how the tasks are scheduled
    """

    learningRate: Param[float] = _param("learningRate", "step of a rating (> 0)", TypeConverters.toFloat)
    schedule: Param[str] = _param(
        "schedule",
        "how the learning rate changes: 'constant', 'inverse', 'bold' or 'adagrad'",
        TypeConverters.toString,
    )
    decay: Param[float] = _param("decay", "decay of the schedule 'inverse' (>= 0)", TypeConverters.toFloat)
    numBlocks: Param[int] = _param("numBlocks", "number of user blocks and of item blocks (>= 1)", TypeConverters.toInt)

    _model_class = SGDModel
    _minimums: ClassVar[dict[str, int]] = {**_Factorizer._minimums, "numBlocks": 1, "learningRate": 0, "decay": 0}

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
        seed: int = 0,
        ratingCol: str = "rating",
        coldStartStrategy: str = "nan",
        predictionCol: str = "prediction",
        tol: float = 0.0,
        validationIndicatorCol: str | None = None,
        patience: int = 0,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        learningRate: float = 0.02,
        schedule: str = "inverse",
        decay: float = 0.1,
        biases: bool = False,
        biasRegParam: float | None = None,
        userRegParam: float | None = None,
        itemRegParam: float | None = None,
        weightCol: str | None = None,
    ) -> None:
        super().__init__()
        self._setDefault(numBlocks=4, learningRate=0.02, schedule="inverse", decay=0.1)
        self._set(**self._input_kwargs)  # type: ignore[attr-defined]  # set by keyword_only

    def _solver(self) -> StochasticGradientDescent:
        of = self._value
        return StochasticGradientDescent(
            self.getRank(),
            self._regularization(),
            Explicit(has_biases=of("biases")),
            of("learningRate"),
            of("schedule"),
            of("decay"),
            self.getSeed(),
        )

    def _n_blocks(self) -> tuple[int, int]:
        return self.getOrDefault(self.numBlocks), self.getOrDefault(self.numBlocks)

    def _require_in_range(self) -> None:
        super()._require_in_range()
        self._require_choice("schedule", "constant", "inverse", "bold", "adagrad")
        if self.getOrDefault("learningRate") == 0:
            raise ConfigError("learningRate must be above 0, found 0.0")


def _cold_start_strategy(params: _ModelParams) -> str:
    strategy = params.getColdStartStrategy().lower()
    if strategy not in ("nan", "drop"):
        raise ConfigError(f"coldStartStrategy must be 'nan' or 'drop', found '{params.getColdStartStrategy()}'")
    return strategy


def _select_ratings(
    dataset: DataFrame, user: str, item: str, rating: str, weight: str | None, validation: str | None = None
) -> DataFrame:
    """user_id, item_id, rating float, and weight float and is_validation boolean where there are such columns."""
    require_columns(dataset, [name for name in (user, item, rating, weight, validation) if name is not None])
    require_id_column(dataset, user)
    require_id_column(dataset, item)
    require_numeric_column(dataset, rating)
    selected = [
        column(user).alias("user_id"),
        column(item).alias("item_id"),
        column(rating).cast("float").alias("rating"),
    ]
    if weight is not None:
        require_numeric_column(dataset, weight)
        selected.append(column(weight).cast("float").alias("weight"))
    if validation is not None:
        require_boolean_column(dataset, validation)
        selected.append(column(validation).alias("is_validation"))
    return dataset.select(*selected)
