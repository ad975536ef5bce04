"""Evaluate: how well predictions and recommendations meet ratings that training never saw."""

from typing import TYPE_CHECKING

from pyspark.ml.evaluation import RankingEvaluator
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.ml._typing import RankingEvaluatorMetricType

_RANKING_METRICS: "dict[RankingEvaluatorMetricType, str]" = {
    "ndcgAtK": "ndcg",
    "precisionAtK": "precision",
    "recallAtK": "recall",
}
"""Spark's names of the metrics, and ours."""


def rating_metrics(predictions: DataFrame) -> dict[str, float | int | None]:
    """Error of predicted ratings.

    Parameters
    ----------
    predictions : rating, prediction (NaN where user or item is unknown to the model)

    Returns
    -------
    n_pairs, n_unknown (pairs without a prediction), and over the others rmse and mae, None where there are
    none. Cost: one aggregation.
    """
    is_known = ~F.isnan("prediction")
    error = F.when(is_known, F.col("prediction").cast("double") - F.col("rating"))
    found = predictions.agg(
        F.count("*").alias("n_pairs"),
        F.count_if(~is_known).alias("n_unknown"),
        F.sqrt(F.avg(error * error)).alias("rmse"),
        F.avg(F.abs(error)).alias("mae"),
    ).first()
    return found.asDict() if found else {}


def ranking_metrics(recommendations: DataFrame, relevant: DataFrame, k: int) -> dict[str, float | int | None]:
    """Quality of the first k recommendations, averaged over the users who have both a list and relevant items.

    Parameters
    ----------
    recommendations : id, items array<item id>, best first
    relevant : id, items array<item id>, the items that should have been found
    k : length of the list that is judged

    Returns
    -------
    n_users, ndcg_at_k, precision_at_k, recall_at_k with binary relevance, as Spark's RankingEvaluator defines
    them: precision divides by k even where fewer items are relevant. None where there are no such users.

    Cost: one join, three aggregations.
    """
    # Adaptive execution leaves cached plans alone: without this, a task for each of spark.sql.shuffle.partitions.
    n_partitions = recommendations.sparkSession.sparkContext.defaultParallelism
    judged = ranking_pairs(recommendations, relevant).coalesce(n_partitions).persist()
    evaluator = RankingEvaluator(k=k, predictionCol="prediction", labelCol="label")
    try:
        metrics: dict[str, float | int | None] = {"n_users": judged.count()}
        for metric, name in _RANKING_METRICS.items():
            is_judged = metrics["n_users"] != 0
            metrics[f"{name}_at_{k}"] = evaluator.setMetricName(metric).evaluate(judged) if is_judged else None
    finally:
        judged.unpersist()
    return metrics


def ranking_pairs(recommendations: DataFrame, relevant: DataFrame) -> DataFrame:
    """What Spark's RankingEvaluator wants: prediction, label, both array<double>, a row for each id in both tables.

    recommendations, relevant : as for `ranking_metrics`

    Item ids of any type become the item's place among both lists: only equality within one row matters, so that needs
    no join.
    """
    judged = relevant.select("id", F.col("items").alias("relevant")).join(
        recommendations.select("id", F.col("items").alias("recommended")), on="id", how="inner"
    )
    known = F.array_union("recommended", "relevant")

    def place(item: Column) -> Column:
        return F.array_position(known, item).cast("double")

    return judged.select(
        F.transform("recommended", place).alias("prediction"), F.transform("relevant", place).alias("label")
    )


def is_too_much_worse(ours: float | None, theirs: float | None, margin: float, *, is_error: bool) -> bool:
    """Whether a metric is worse than another by more than a share of that; no metric is worse than any.

    is_error : whether less is better
    """
    if theirs is None:
        return False
    if ours is None:
        return True
    return ours > theirs * (1 + margin) if is_error else ours < theirs * (1 - margin)
