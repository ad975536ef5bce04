"""The models: factors by raw id; they predict, recommend, compare and explain."""

from __future__ import annotations

from dataclasses import asdict
from functools import reduce
from typing import Any, NamedTuple
from uuid import uuid4

from pyspark.ml import Model
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegralType

from mfspark.blocks.records import Side
from mfspark.engine.connect_files import delete_on_server
from mfspark.engine.files import FileStore
from mfspark.engine.session import is_connect
from mfspark.errors import ConfigError, SchemaError
from mfspark.ml.params import ModelParams
from mfspark.serving.explain import explain
from mfspark.serving.fold_in import fold_in
from mfspark.serving.predict import PairColumns, predict
from mfspark.serving.recommend import recommend, recommend_popular, similar
from mfspark.tables.baselines import count_ratings
from mfspark.tables.columns import column, id_of_type, require_columns, select_ratings, with_ids_of
from mfspark.tables.evaluate import lists_of, ranking_pairs
from mfspark.training.als import AlternatingLeastSquares
from mfspark.training.factor_tables import FactorTable
from mfspark.training.objective import Explicit, Implicit, Regularization
from mfspark.training.train import TrainingSummary

_KNOWN_ID = "__mfspark_known_id"

# What Spark writes into the metadata of its model.
_SPARK_MODEL = "org.apache.spark.ml.recommendation.ALSModel"


class TrainedBy(NamedTuple):
    """The training parameters that fold-in and explain need."""

    solver: AlternatingLeastSquares
    """Solves a row exactly, with the objective of the training."""
    rating_column: str
    weight_column: str | None

    def to_json(self) -> dict[str, Any]:
        """For the metadata of a stored model."""
        return {**asdict(self.solver), "rating_column": self.rating_column, "weight_column": self.weight_column}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> TrainedBy:
        """The inverse of `to_json`."""
        objective = stored["objective"]
        solver = AlternatingLeastSquares(
            stored["rank"],
            Regularization(**stored["regularization"]),
            Implicit(**objective) if "alpha" in objective else Explicit(**objective),
            stored["solver"],
        )
        return cls(solver, stored["rating_column"], stored["weight_column"])


class ALSModel(Model, ModelParams, MLWritable, MLReadable["ALSModel"]):
    """Factors by raw id; predicts, recommends, compares, explains and folds in.

    Parameters
    ----------
    user_factors, item_factors : factors by raw id
    rank : number of latent factors
    global_mean : mean training rating; with biases it is part of each prediction; None if unknown
    summary : the course of the training; None for a loaded model
    trained_by : training parameters; None for a model that Spark's ALS saved
    """

    def __init__(
        self,
        user_factors: FactorTable | None = None,
        item_factors: FactorTable | None = None,
        rank: int = 0,
        global_mean: float | None = None,
        summary: TrainingSummary | None = None,
        trained_by: TrainedBy | None = None,
    ) -> None:
        super().__init__()
        self._user_factors, self._item_factors = user_factors, item_factors
        self._rank, self._global_mean, self._summary, self._trained_by = rank, global_mean, summary, trained_by

    def __repr__(self) -> str:
        return f"{type(self).__name__}: uid={self.uid}, rank={self.rank}"

    @property
    def rank(self) -> int:
        """Number of latent factors."""
        return self._rank

    @property
    def globalMean(self) -> float | None:
        """Mean training rating; with biases it is part of each prediction.

        None for implicit feedback, because its predictions are not ratings, and for models of Spark's ALS.
        """
        return self._global_mean

    @property
    def userFactors(self) -> DataFrame:
        """Factors of every user: id, features array<float>, and, if there are biases, bias float."""
        return _present(self._user_factors).table

    @property
    def itemFactors(self) -> DataFrame:
        """Factors of every item: id, features array<float>, and, if there are biases, bias float."""
        return _present(self._item_factors).table

    @property
    def hasBiases(self) -> bool:
        """Whether users and items have biases."""
        return _present(self._user_factors).has_biases

    @property
    def factorTables(self) -> tuple[FactorTable, FactorTable]:
        """Factors of users and items, also as arrays."""
        return _present(self._user_factors), _present(self._item_factors)

    @property
    def hasSummary(self) -> bool:
        """Whether this model has a summary: a loaded model does not."""
        return self._summary is not None

    @property
    def summary(self) -> TrainingSummary:
        """The course of the training, iteration by iteration."""
        if self._summary is None:
            raise RuntimeError("a loaded model has no training summary; see metrics.json of the run that trained it")
        return self._summary

    def foldInUsers(self, ratings: DataFrame) -> ALSModel:
        """A model for the users of these ratings, known or new, and the same items.

        Solves each user's factors exactly from the item factors, as in a half-iteration of the training. The new model
        predicts and recommends: `model.foldInUsers(r).recommendForAllUsers(10, seen=r)`.

        ratings : userCol, itemCol, and the columns of ratings and weights that training had. Ratings of unknown items
            are ignored; a user who rated only unknown items is not in the new model

        Raises
        ------
        DataError         unusable ratings, or no rating of a known item
        NumericalError    a user's normal equation has no unique solution

        Cost: a shuffle of the ratings and n_ratings·rank² multiply-adds, at once; the new factors pass through the
        driver.
        """
        return self._with_folded("user", ratings)

    def foldInItems(self, ratings: DataFrame) -> ALSModel:
        """A model for the items of these ratings and the same users; like foldInUsers, with the sides swapped."""
        return self._with_folded("item", ratings)

    def rankingPairs(self, recommendations: DataFrame, relevant: DataFrame) -> DataFrame:
        """Convert recommendations to the input of Spark's RankingEvaluator.

        Parameters
        ----------
        recommendations : from recommendForAllUsers
        relevant : relevant pairs in userCol and itemCol

        Returns
        -------
        DataFrame    prediction, label array<double>, a row for each user in both tables. Ids of any type become numbers
        """
        user, item = self.getUserCol(), self.getItemCol()
        ranked = lists_of(recommendations, user, item)
        require_columns(relevant, [user, item])
        wanted = relevant.groupBy(column(user).alias("id")).agg(F.collect_set(column(item)).alias("items"))
        return ranking_pairs(ranked, wanted)

    def explain(self, ratings: DataFrame, user: Any, item: Any) -> DataFrame:
        """The contribution of each of a user's ratings to the prediction for an item.

        ratings : as for foldInUsers; ratings of other users are ignored. The model need not know the user

        Returns
        -------
        DataFrame    itemCol, contribution float, largest first. They sum to the prediction for a user solved from these
                     ratings; with biases, without the mean and the item's bias

        Raises
        ------
        ConfigError    nonnegative factors, because they are not a sum over the ratings
        DataError      unusable ratings, no rating of a known item, or an item without factors
        """
        solver, selected = self._as_trained(ratings)
        of_user = selected.where(F.col("user_id") == F.lit(user).try_cast(selected.schema["user_id"].dataType))
        found = explain(of_user, item, _present(self._item_factors), solver)
        return found.withColumnRenamed("item_id", self.getItemCol())

    def _as_trained(self, ratings: DataFrame) -> tuple[AlternatingLeastSquares, DataFrame]:
        """The solver of the training, and these ratings with the columns that training used."""
        if self._trained_by is None:
            raise RuntimeError(
                "this model has no training parameters (Spark's ALS does not save them); use "
                "ALS(initialModel=model, maxIter=0).fit(ratings) with the parameters that it was trained with"
            )
        solver, rating_column, weight_column = self._trained_by
        return solver, select_ratings(ratings, self.getUserCol(), self.getItemCol(), rating_column, weight_column)

    def _with_folded(self, side: Side, ratings: DataFrame) -> ALSModel:
        solver, selected = self._as_trained(ratings)
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
        if _has_column(dataset, self.getPredictionCol()):
            raise SchemaError(
                f"column '{self.getPredictionCol()}' already exists; drop it or set another predictionCol"
            )
        strategy = self.cold_start_strategy()
        if strategy == "mean" and self.globalMean is None:
            raise ConfigError(
                "coldStartStrategy 'mean' needs a mean rating, and this model has none; choose 'nan' or 'drop'"
            )
        predictions = predict(
            dataset,
            self.userFactors,
            self.itemFactors,
            self.globalMean,
            PairColumns(self.getUserCol(), self.getItemCol(), self.getPredictionCol()),
            is_mean_of_unknown=strategy == "mean",
        )
        bounds = self.bounds()
        if bounds is not None:
            found = column(self.getPredictionCol())
            low, high = (F.lit(bound).cast("float") for bound in bounds)
            clipped = F.when(F.isnan(found), found).otherwise(F.least(F.greatest(found, low), high))
            predictions = predictions.withColumn(self.getPredictionCol(), clipped)
        if strategy == "drop":
            return predictions.where(~F.isnan(column(self.getPredictionCol())))
        return predictions

    def recommendForAllUsers(
        self,
        numItems: int,
        seen: DataFrame | None = None,
        candidates: DataFrame | None = None,
        exclude: DataFrame | None = None,
    ) -> DataFrame:
        """Best numItems items for every user.

        Parameters
        ----------
        numItems : int ≥ 1
        seen : ratings, or any pairs in userCol and itemCol, to leave out
        candidates : items in itemCol; every user gets only these
        exclude : items in itemCol to leave out for everybody; or, with userCol, pairs as in seen

        Returns
        -------
        DataFrame    userCol, recommendations array<struct<itemCol, rating float>>, best first; exactly
                     min(numItems, left) entries per user; equal scores in ascending order of the item
        """
        return self._recommend("user", numItems, None, seen, candidates, exclude)

    def recommendForAllItems(
        self,
        numUsers: int,
        seen: DataFrame | None = None,
        candidates: DataFrame | None = None,
        exclude: DataFrame | None = None,
    ) -> DataFrame:
        """Best numUsers users for every item; like recommendForAllUsers, with the sides swapped."""
        return self._recommend("item", numUsers, None, seen, candidates, exclude)

    def recommendForUserSubset(
        self,
        dataset: DataFrame,
        numItems: int,
        seen: DataFrame | None = None,
        candidates: DataFrame | None = None,
        exclude: DataFrame | None = None,
        popular: DataFrame | None = None,
    ) -> DataFrame:
        """Best numItems items for the users in dataset's userCol, each once.

        popular : ratings; users without factors get the most frequent items in them, with null for the rating; without
            popular these users are left out. Other parameters as for recommendForAllUsers
        """
        best = self._recommend("user", numItems, dataset, seen, candidates, exclude)
        if popular is None:
            return best
        user, item = self.getUserCol(), self.getItemCol()
        items, left_out = self._choice("user", seen, candidates, exclude)
        users, wanted = _present(self._user_factors), _ids(dataset, user)
        known_ids = users.table.select(F.col("id").alias(_KNOWN_ID))
        strangers = wanted.join(known_ids, id_of_type(wanted, "id", users.id_type) == F.col(_KNOWN_ID), "left_anti")
        known = count_ratings(popular, item).join(items.table.select("id"), on="id", how="left_semi")
        fallback = recommend_popular(strangers, known, numItems, left_out)
        fallback = _named(fallback, user, "recommendations", item, "rating")
        types = [strangers.schema["id"].dataType, users.id_type]
        if types[0] != types[1] and not all(isinstance(kind, IntegralType) for kind in types):  # one column holds both
            best, fallback = (table.withColumn(user, column(user).cast("string")) for table in (best, fallback))
        return best.unionByName(fallback)

    def recommendForItemSubset(
        self,
        dataset: DataFrame,
        numUsers: int,
        seen: DataFrame | None = None,
        candidates: DataFrame | None = None,
        exclude: DataFrame | None = None,
    ) -> DataFrame:
        """Best numUsers users for the items in dataset's itemCol; like recommendForUserSubset, with sides swapped."""
        return self._recommend("item", numUsers, dataset, seen, candidates, exclude)

    def similarItems(self, numItems: int, metric: str = "cosine", subset: DataFrame | None = None) -> DataFrame:
        """The numItems other items nearest to each item.

        Parameters
        ----------
        metric : "cosine" or "dot" product of the factors, without biases
        subset : find neighbors of these items in itemCol; None: all

        Returns
        -------
        DataFrame    itemCol, similar array<struct<itemCol, similarity float>>, nearest first
        """
        return self._similar("item", numItems, metric, subset)

    def similarUsers(self, numUsers: int, metric: str = "cosine", subset: DataFrame | None = None) -> DataFrame:
        """The numUsers other users nearest to each user; like similarItems."""
        return self._similar("user", numUsers, metric, subset)

    def _recommend(
        self,
        side: Side,
        n: int,
        subset: DataFrame | None,
        seen: DataFrame | None,
        candidates: DataFrame | None,
        exclude: DataFrame | None,
    ) -> DataFrame:
        _require_positive(n)
        own, other, rows = self.getUserCol(), self.getItemCol(), self._user_factors
        if side == "item":
            own, other, rows = other, own, self._item_factors
        rows = _present(rows)
        if subset is not None:
            rows = rows.only(_ids_like(rows, subset, own))
        targets, left_out = self._choice(side, seen, candidates, exclude)
        best = recommend(rows, targets, self.globalMean, n, left_out)
        return _named(best, own, "recommendations", other, "rating")

    def _choice(
        self, side: Side, seen: DataFrame | None, candidates: DataFrame | None, exclude: DataFrame | None
    ) -> tuple[FactorTable, DataFrame | None]:
        """The rows of the other side to recommend from, and the pairs to leave out."""
        own, other, targets = self.getUserCol(), self.getItemCol(), self._item_factors
        if side == "item":
            own, other, targets = other, own, self._user_factors
        targets = _present(targets)
        if candidates is not None:
            if _has_column(candidates, own):
                raise SchemaError(
                    f"candidates apply to every {side}, but they have a column '{own}' beside '{other}'; select "
                    f"'{other}' alone, or pass pairs to leave out as exclude"
                )
            targets = targets.only(_ids_like(targets, candidates, other))
        pairs = [] if seen is None else [_pairs(seen, own, other)]
        if exclude is not None:
            if _has_column(exclude, own):
                pairs.append(_pairs(exclude, own, other))
            else:
                targets = targets.without(_ids_like(targets, exclude, other))
        own_type = _present(self._user_factors if side == "user" else self._item_factors).id_type
        left_out = [with_ids_of(with_ids_of(table, "id", own_type), "item_id", targets.id_type) for table in pairs]
        return targets, reduce(DataFrame.union, left_out) if left_out else None

    def _similar(self, side: Side, n: int, metric: str, subset: DataFrame | None) -> DataFrame:
        _require_positive(n)
        if metric not in ("cosine", "dot"):
            raise ConfigError(f"metric must be 'cosine' or 'dot', found '{metric}'")
        name = self.getUserCol() if side == "user" else self.getItemCol()
        factors = _present(self._user_factors if side == "user" else self._item_factors)
        nearest = similar(
            factors if subset is None else factors.only(_ids_like(factors, subset, name)),
            factors,
            n,
            is_cosine=metric == "cosine",
        )
        return _named(nearest, name, "similar", name, "similarity")

    def write(self) -> MLWriter:
        """Writer of the folder metadata/, userFactors/, itemFactors/."""
        return _ALSModelWriter(self)

    @classmethod
    def read(cls) -> _ALSModelReader:
        """Reader of folders that `write` wrote."""
        return _ALSModelReader(cls)


class SGDModel(ALSModel):
    """Model of SGD: the same tables, the same methods."""


class _ALSModelWriter(MLWriter):
    """Writer of models; option("format", "spark") writes a model that Spark's ALSModel can load."""

    def __init__(self, model: ALSModel) -> None:
        super().__init__()
        self._model, self._format = model, "mfspark"

    def option(self, key: str, value: Any) -> MLWriter:
        if key != "format":
            return super().option(key, value)
        if value not in ("mfspark", "spark"):
            raise ConfigError(f"format must be 'mfspark' or 'spark', found '{value}'")
        self._format = value
        return self

    def save(self, path: str) -> None:
        """Save; replace an existing model only when this one is complete, since it may have been loaded from there.

        On Spark Connect, where the server writes and cannot rename, the existing model is deleted first.
        """
        if not self.shouldOverwrite:
            self.saveImpl(path)
            return
        spark = self._model.userFactors.sparkSession
        if is_connect(spark):
            users, items, extra = self._content()
            users, items = users.localCheckpoint(), items.localCheckpoint()  # may have been loaded from there
            delete_on_server(path)
            self._write(path, users, items, extra)
            return
        folder, separator, name = path.rstrip("/").rpartition("/")
        beside = f"{folder}{separator}.{name}-{uuid4().hex}"
        store = FileStore(spark, path)
        try:
            self.saveImpl(beside)
        except BaseException:
            store.delete(beside)
            raise
        store.replace_folder(beside, path, "metadata")  # if this fails, the error names the folder that is left

    def saveImpl(self, path: str) -> None:
        self._write(path, *self._content())

    def _content(self) -> tuple[DataFrame, DataFrame, dict[str, Any]]:
        """The two tables, and what the metadata has besides the parameters."""
        model = self._model
        users, items = model.userFactors, model.itemFactors
        extra: dict[str, Any] = {"rank": model.rank}
        if self._format == "spark":
            if "bias" in users.columns:
                raise ConfigError("Spark's ALSModel has no biases; save in mfspark's format or train without biases")
            users, items = (_with_int_ids(table) for table in (users, items))
            extra["class"] = _SPARK_MODEL
        else:
            extra |= {"globalMean": model.globalMean, "training": model._trained_by and model._trained_by.to_json()}
        return users, items, extra

    def _write(self, path: str, users: DataFrame, items: DataFrame, extra: dict[str, Any]) -> None:
        DefaultParamsWriter.saveMetadata(self._model, path, users.sparkSession, extraMetadata=extra)
        users.write.parquet(f"{path}/userFactors")
        items.write.parquet(f"{path}/itemFactors")


class _ALSModelReader(MLReader[ALSModel]):
    """Reader of our own models and of models that Spark's ALSModel saved."""

    def __init__(self, model_class: type[ALSModel]) -> None:
        super().__init__()
        self._model_class = model_class

    def load(self, path: str) -> ALSModel:
        spark: SparkSession = self.sparkSession
        metadata = DefaultParamsReader.loadMetadata(path, spark)
        training = metadata.get("training")
        model = self._model_class(
            FactorTable.of(spark.read.parquet(f"{path}/userFactors")),
            FactorTable.of(spark.read.parquet(f"{path}/itemFactors")),
            metadata["rank"],
            metadata.get("globalMean"),
            trained_by=training and TrainedBy.from_json(training),
        )
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model


def _with_int_ids(factors: DataFrame) -> DataFrame:
    """The table in the format of Spark's ALSModel, with int ids."""
    as_int = F.col("id").try_cast("int")
    other = factors.where(as_int.isNull() | (as_int != F.col("id"))).first()
    if other is not None:
        raise ConfigError(f"Spark's ALSModel allows int ids only, found {other['id']!r}; save in mfspark's format")
    return factors.select(as_int.alias("id"), "features")


def _require_positive(n: int) -> None:
    if n < 1:
        raise ConfigError(f"the number of recommendations must be at least 1, found {n}")


def _has_column(dataset: DataFrame, name: str) -> bool:
    """Like Spark, ignores the case of names."""
    return name.lower() in {column.lower() for column in dataset.columns}


def _ids(dataset: DataFrame, name: str) -> DataFrame:
    """id: the distinct values of a column, without null and NaN."""
    require_columns(dataset, [name])
    return dataset.select(column(name).alias("id")).dropna().distinct()


def _ids_like(factors: FactorTable, dataset: DataFrame, name: str) -> DataFrame:
    """id: as `_ids`, those that are ids of the factors' type."""
    return with_ids_of(_ids(dataset, name), "id", factors.id_type)


def _pairs(dataset: DataFrame, own: str, other: str) -> DataFrame:
    """id, item_id: pairs that must not be recommended."""
    require_columns(dataset, [own, other])
    return dataset.select(column(own).alias("id"), column(other).alias("item_id"))


def _named(best: DataFrame, own: str, entries: str, other: str, score: str) -> DataFrame:
    """The lists of `recommend`, with these names for columns and fields."""
    fields = F.transform(
        "recommendations", lambda entry: F.struct(entry["id"].alias(other), entry["rating"].alias(score))
    )
    return best.select(F.col("id").alias(own), fields.alias(entries))


def _present(factors: FactorTable | None) -> FactorTable:
    if factors is None:
        raise RuntimeError("this ALSModel has no factors; get one from ALS.fit or ALSModel.load")
    return factors
