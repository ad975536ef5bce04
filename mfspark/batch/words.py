"""What a step found, for the lines of the log; metrics.json and the JSON log have the exact numbers."""

from collections.abc import Mapping
from typing import Any

from mfspark.tables.evaluate import Metrics

_PARTS = {"train": "for training", "validation": "for validation", "holdout": "held out"}
_LISTS = {"full": "full", "short": "short", "fallback": "filled with popular items", "empty": "empty"}
_BASELINES = {"mean_and_biases": "mean and biases", "popularity": "popularity"}


def rows_in_words(rows: Mapping[str, Any]) -> str:
    """The number of rows read, and what became of them.

    Example: 1501 rows: 1349 for training, 152 held out; 3 rejected (rating is null 3)
    """
    parts = ", ".join(f"{rows[part]} {use}" for part, use in _PARTS.items() if rows[part])
    others = []
    if rows["carried"]:
        others.append(f"{rows['carried']} taken over from the run before")
    if rows["merged_duplicates"]:
        others.append(f"{rows['merged_duplicates']} merged as duplicates")
    if rows["rejected"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rows["rejected"].items())
        others.append(f"{sum(rows['rejected'].values())} rejected ({reasons})")
    return f"{rows['read']} rows: " + "; ".join([parts, *others])


def lists_in_words(lists: Mapping[str, int]) -> str:
    """The number of users by kind of list, without kinds that nobody has.

    Example: 6038 full, 2 short
    """
    return ", ".join(f"{lists[kind]} {words}" for kind, words in _LISTS.items() if lists[kind]) or "none"


def metrics_in_words(metrics: Metrics, baselines: Mapping[str, Metrics]) -> str:
    """RMSE, MAE, NDCG and recall of the holdout, each with that of the baseline.

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
