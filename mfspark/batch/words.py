"""Log messages about the results of a step, with rounded numbers; metrics.json and the JSON log have the exact ones."""

from collections.abc import Mapping
from typing import Any

from mfspark.tables.evaluate import Metrics

_PARTS = {"train": "for training", "validation": "for validation", "holdout": "held out"}
_LISTS = {"full": "full", "short": "short", "fallback": "filled with popular items", "empty": "empty"}
_BASELINES = {"mean_and_biases": "mean and biases", "popularity": "popularity"}


def rows_in_words(rows: Mapping[str, Any]) -> str:
    """The number of rows read, and how many of them went where.

    Example: 1501 rows: 1349 for training, 152 held out; 3 rejected (rating is null 3)
    """
    parts = ", ".join(f"{rows[part]} {use}" for part, use in _PARTS.items() if rows[part])
    others = []
    if rows["carried"]:
        others.append(f"{rows['carried']} reused from the run before")
    if rows["merged_duplicates"]:
        others.append(f"{rows['merged_duplicates']} merged as duplicates")
    if rows["rejected"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rows["rejected"].items())
        others.append(f"{sum(rows['rejected'].values())} rejected ({reasons})")
    return f"{rows['read']} rows: " + "; ".join([parts, *others])


def lists_in_words(lists: Mapping[str, int]) -> str:
    """The number of users with each kind of list; kinds without users are left out.

    Example: 6038 full, 2 short
    """
    return ", ".join(f"{lists[kind]} {words}" for kind, words in _LISTS.items() if lists[kind]) or "none"


def metrics_in_words(metrics: Metrics, baselines: Mapping[str, Metrics]) -> str:
    """RMSE, MAE, NDCG and recall on the holdout, each with the value of the baseline in brackets.

    Example: RMSE 0.931 (mean and biases 1.110), NDCG@10 0.173 (popularity 0.170)
    """
    shown = []
    for name, value in metrics.items():
        title, _, n = name.partition("_at_")
        if title not in ("rmse", "mae", "ndcg", "recall") or value is None:
            continue
        others = [
            f"{_BASELINES[key]} {other[name]:.3f}" for key, other in baselines.items() if other.get(name) is not None
        ]
        title = title if title == "recall" else title.upper()
        shown.append(f"{title}{'@' if n else ''}{n} {value:.3f}" + (f" ({', '.join(others)})" if others else ""))
    return ", ".join(shown) or "no metric could be computed"
