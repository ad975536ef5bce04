"""Formats the numbers of a run as text and as rows of tables. Does not use Spark."""

import math
from dataclasses import dataclass, field
from typing import Any

from mfspark.storage.metrics import BASELINES, label, n_known_ratings, published_course

_MOST_PERCENT = 1000
"""A larger change is shown as a factor, not in percent."""
_MOST_TIMES = 1e6
"""A larger factor is not shown, because it only means that the old value was nearly 0."""
_STOPPED = {
    "max_iter": "as set by train.max_iter",
    "tol": "stopped early: the objective hardly fell",
    "patience": "stopped early: validation RMSE did not fall",
}


@dataclass(frozen=True)
class RunFacts:
    """The manifest and metrics of a run, and of the run that it is compared with."""

    run_id: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    current: tuple[str, dict[str, Any]] | None
    """Name and metrics of the current run."""
    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings that differ from those of the current run: (then, now), by section.key."""


def number(value: Any) -> str:
    """A number as readable text; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        n_decimals = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
        return f"{value:,.{n_decimals}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def short_number(value: float) -> str:
    """A number with at most three digits and a letter, for an axis."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share in percent, without its sign; a share below 1 is never rounded to 100 %."""
    share = abs(share) * 100
    if 99 < share < 100:
        return f"{min(share, 99.9):.1f} %"
    return f"{share:,.{0 if share >= 10 else 1 if share >= 1 else 2}f} %"


def change(before: float, now: float) -> str:
    """A change in percent, or as a factor if it is large; the difference if `before` is 0; "" if it is nearly 0."""
    if before == now:
        return "±0"
    if math.isclose(before, now, rel_tol=1e-4):
        return "≈ 0"
    if not (math.isfinite(before) and math.isfinite(now)):
        return ""
    if before == 0:
        return f"{'+' if now > 0 else '−'}{number(abs(now))}"
    share = (now - before) / abs(before)
    if abs(share) * 100 <= _MOST_PERCENT:
        return f"{'+' if share > 0 else '−'}{percent(share)}"
    ratio = now / before
    return f"× {ratio:,.0f}" if 0 < ratio <= _MOST_TIMES else ""


def tiles(metrics: dict[str, Any], clip: list[float] | None = None) -> list[tuple[str, str, str]]:
    """The numbers at the top of the report: name, number, and a note.

    clip : bounds of the predictions; None if they are not clipped
    """
    rows, training, holdout = metrics["rows"], metrics["training"], metrics["holdout"]
    published = published_course(metrics)
    n_rejected, iterations = sum(rows["rejected"].values()), training["iterations"]
    shown = [
        ("ratings", number(n_known_ratings(metrics)), f"used for training; {number(rows['read'])} rows read"),
        ("rejected", number(n_rejected), "rows that could not be used"),
        ("users", number(published["users"]), f"and {number(published['items'])} items"),
    ]
    if "lists" in metrics:
        shown.append(_lists_tile(metrics["lists"]))
    shown.append(("iterations", number(len(iterations)), _STOPPED[training["stop_reason"]]))
    if iterations and iterations[-1]["rmse"] is not None:
        shown.append(("training RMSE", f"{iterations[-1]['rmse']:.4f}", "after the last iteration"))
    if holdout["rmse"] is not None:
        clipped = "" if clip is None else f", predictions clipped to {clip[0]:g} … {clip[1]:g}"
        shown.append(("holdout RMSE", f"{holdout['rmse']:.4f}", f"of {number(holdout['n_pairs'])} ratings{clipped}"))
    for key, value in holdout.items():
        if key.startswith("ndcg_at_") and value is not None:
            shown.append((label(key), f"{value:.4f}", f"of {number(holdout['n_users'])} users"))
    return shown


def _lists_tile(lists: dict[str, int]) -> tuple[str, str, str]:
    """Number of users with a full list, with the numbers of the other kinds as a note."""
    others = [f"{number(n)} {kind}" for kind, n in lists.items() if kind != "full" and n]
    of_all = f"of {number(sum(lists.values()))} users"
    return "full lists", number(lists.get("full", 0)), "; ".join([of_all, ", ".join(others)] if others else [of_all])


def holdout_table(metrics: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Column names, and a row for each metric: name, value of the model, value of each baseline."""
    baselines = {key: metrics["baselines"][key] for key in BASELINES if key in metrics.get("baselines", {})}
    rows = [
        [label(key), value, *(values.get(key) for values in baselines.values())]
        for key, value in metrics["holdout"].items()
        if value is None or isinstance(value, int | float)
    ]
    return ["this model", *(BASELINES[key].removeprefix("the ") for key in baselines)], rows


def changes(run: RunFacts) -> list[tuple[str, Any, Any, str]]:
    """Name, value of the current run, value of this run, change; only for metrics of both runs."""
    if run.current is None:
        return []
    before, now = _comparable(run.current[1]), _comparable(run.metrics)
    return [(name, before[name], value, change(before[name], value)) for name, value in now.items() if name in before]


def _comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    rows, training = metrics.get("rows", {}), metrics.get("training", {})
    found = {"rows read": rows.get("read"), "ratings trained on": n_known_ratings(metrics)}
    found["rows rejected"] = sum(rows.get("rejected", {}).values())
    found |= {key: published_course(metrics).get(key) for key in ("users", "items")}
    found |= {f"lists: {kind}": n for kind, n in metrics.get("lists", {}).items()}
    if training.get("iterations"):
        found |= {key: training["iterations"][-1].get(key) for key in ("objective", "rmse")}
        found["training RMSE"] = found.pop("rmse")
    holdout = {key: value for key, value in metrics.get("holdout", {}).items() if not key.startswith("n_")}
    found |= {f"holdout {label(key)}": value for key, value in holdout.items()}
    found["seconds"] = round(sum(metrics.get("seconds", {}).values()))
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def seconds_by_phase(metrics: dict[str, Any]) -> dict[str, float]:
    """Wall time in seconds of each step; training is split into its phases."""
    found: dict[str, float] = {}
    for step, seconds in metrics["seconds"].items():
        if step == "train":
            phases = {f"train: {phase}": value for phase, value in metrics["training"]["seconds"].items()}
            if "refit" in metrics:
                phases["train: refit"] = sum(metrics["refit"]["seconds"].values())
            found |= phases | {"train: write": max(seconds - sum(phases.values()), 0.0)}
        else:
            found[step] = seconds
    return found
