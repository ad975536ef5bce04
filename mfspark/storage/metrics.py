"""Reads values from the metrics.json of a run."""

from typing import Any

BASELINES = {"popularity": "the most popular items", "mean_and_biases": "mean and biases"}
"""The names of the baselines for messages, by key of metrics.json."""


def label(key: str) -> str:
    """The name of a metric for people, by its key in metrics.json."""
    name, at, k = key.partition("_at_")
    words = {"rmse": "RMSE", "mae": "MAE", "map": "MAP", "ndcg": "NDCG", "n_pairs": "ratings", "n_users": "users"}
    words |= {"n_unknown": "ratings of unknown users or items"}
    return words.get(name, name.replace("_", " ")) + (f"@{k}" if at else "")


def published_course(metrics: dict[str, Any]) -> dict[str, Any]:
    """The record of the training that made the published factors: the refit if there is one."""
    found: dict[str, Any] = metrics.get("refit") or metrics.get("training", {})
    return found


def n_known_ratings(metrics: dict[str, Any]) -> int | None:
    """Number of ratings that the published factors were trained on; None if the run has not trained."""
    counts = [metrics.get("rows", {}).get(part) for part in published_course(metrics).get("parts", [])]
    return sum(count for count in counts if count is not None) if counts else None


def measure(metrics: dict[str, Any], name: str, n: int) -> float | None:
    """The value of a measure of the gate's rules; None if the run does not have it.

    n : length of the evaluated lists
    """
    holdout, rows, lists = (metrics.get(key, {}) for key in ("holdout", "rows", "lists"))
    if name in ("users", "items"):
        return published_course(metrics).get(name)
    if name == "ratings":
        return n_known_ratings(metrics)
    if name == "full_lists":
        return lists["full"] / sum(lists.values()) if sum(lists.values()) else None
    if name == "rejected":
        return sum(rows["rejected"].values()) / rows["read"] if rows.get("read") else None
    return of_metric(holdout, name, n)


def of_metric(values: dict[str, Any], name: str, n: int) -> float | None:
    """The value of a holdout metric of the model or of a baseline; None if it is missing.

    values : metrics by key, such as `rmse` or `ndcg_at_10`
    """
    return values.get(name, values.get(f"{name}_at_{n}"))
