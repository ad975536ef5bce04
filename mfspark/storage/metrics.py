"""What the metrics of a run say: metrics.json, read."""

from typing import Any

BASELINES = {"popularity": "the most popular items", "mean_and_biases": "mean and biases"}
"""The baselines of metrics.json in words."""


def published_course(metrics: dict[str, Any]) -> dict[str, Any]:
    """The course of the training that made the published factors."""
    found: dict[str, Any] = metrics.get("refit") or metrics.get("training", {})
    return found


def n_known_ratings(metrics: dict[str, Any]) -> int | None:
    """Number of the ratings that the published factors know; None if the run has not trained."""
    counts = [metrics.get("rows", {}).get(part) for part in published_course(metrics).get("parts", [])]
    return sum(count for count in counts if count is not None) if counts else None


def measure(metrics: dict[str, Any], name: str, n: int) -> float | None:
    """The measure of a rule of the gate; None if the run does not have it.

    n : length of the lists that are judged
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
    """A metric of the holdout, of the model or a baseline."""
    return values.get(name, values.get(f"{name}_at_{n}"))
