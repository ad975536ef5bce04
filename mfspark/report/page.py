"""Page: the report as one HTML file. Plain data in, text out."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mfspark.report import figures
from mfspark.report.collect import Collected

_BASELINES = {"popularity": "most popular items", "mean_and_biases": "mean and biases"}


@dataclass(frozen=True)
class RunFacts:
    """The manifest and metrics of a run, and of the current one."""

    run_id: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    current: tuple[str, dict[str, Any]] | None
    """Name and metrics of the current run."""


def page(run: RunFacts, tables: Collected) -> str:
    """One self-contained page, including plotly.js (4.8 MB). Its content security policy forbids loading anything."""
    environment = Environment(
        loader=PackageLoader("mfspark.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    charts = {name: figure for name, figure in _figures(run, tables).items() if figure is not None}
    return environment.get_template("page.html").render(
        run=run,
        manifest=run.manifest,
        metrics=run.metrics,
        training=run.metrics["training"],
        as_json=partial(json.dumps, indent=2, ensure_ascii=False, default=str),
        tiles=tiles(run.metrics, run.manifest["config"]["train"].get("clip")),
        holdout=holdout_table(run.metrics),
        changes=changes(run),
        rejected=run.metrics["rows"]["rejected"],
        tables=tables,
        charts=charts,
        figures=within_script({name: json.loads(figure.to_json()) for name, figure in charts.items()}),
        plotlyjs=Markup(get_plotlyjs()),
    )


def within_script(content: Any) -> Markup:
    """JSON that cannot close the script element around it."""
    return Markup(json.dumps(content).replace("<", "\\u003c"))


def number(value: Any) -> str:
    """A number as readable text; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        n_decimals = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
        return f"{value:,.{n_decimals}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def tiles(metrics: dict[str, Any], clip: list[float] | None = None) -> list[tuple[str, str, str]]:
    """The first things to know: name, number, and what it is of.

    clip : the bounds of the predictions, if there are any
    """
    rows, training, holdout = metrics["rows"], metrics["training"], metrics["holdout"]
    published = _published(metrics)
    n_rejected, iterations = sum(rows["rejected"].values()), training["iterations"]
    shown = [
        ("ratings", number(_n_known(metrics)), f"in the published factors; {number(rows['read'])} rows read"),
        ("rejected", number(n_rejected), "rows that could not be used"),
        ("users", number(published["users"]), f"and {number(published['items'])} items"),
        ("iterations", number(len(iterations)), _STOPPED[training["stop_reason"]]),
    ]
    if iterations and iterations[-1]["rmse"] is not None:
        shown.append(("training RMSE", f"{iterations[-1]['rmse']:.4f}", "after the last iteration"))
    if holdout["rmse"] is not None:
        clipped = "" if clip is None else f", predictions clipped to {clip[0]:g} … {clip[1]:g}"
        shown.append(("holdout RMSE", f"{holdout['rmse']:.4f}", f"of {number(holdout['n_pairs'])} ratings{clipped}"))
    for key, value in holdout.items():
        if key.startswith("ndcg_at_") and value is not None:
            shown.append(
                (f"NDCG@{key.removeprefix('ndcg_at_')}", f"{value:.4f}", f"of {number(holdout['n_users'])} users")
            )
    return shown


def _published(metrics: dict[str, Any]) -> dict[str, Any]:
    """The course of the training that made the published factors."""
    found: dict[str, Any] = metrics.get("refit") or metrics.get("training", {})
    return found


def _n_known(metrics: dict[str, Any]) -> int | None:
    """Number of the ratings that the published factors know."""
    counts = [metrics.get("rows", {}).get(part) for part in _published(metrics).get("parts", [])]
    return sum(count for count in counts if count is not None) if counts else None


_STOPPED = {
    "max_iter": "as many as were asked for",
    "tol": "until the objective hardly fell",
    "patience": "until validation got no better",
}


def holdout_table(metrics: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Column names, and a row for each metric: name, value of the model, value of each baseline."""
    baselines = {key: metrics["baselines"][key] for key in _BASELINES if key in metrics.get("baselines", {})}
    rows = [
        [_label(key), value, *(values.get(key) for values in baselines.values())]
        for key, value in metrics["holdout"].items()
        if value is None or isinstance(value, int | float)
    ]
    return ["this model", *(_BASELINES[key] for key in baselines)], rows


def changes(run: RunFacts) -> list[tuple[str, Any, Any, str]]:
    """Name, value of the current run, value of this run, change; only for metrics of both runs."""
    if run.current is None:
        return []
    before, now = _comparable(run.current[1]), _comparable(run.metrics)
    return [(name, before[name], value, _change(before[name], value)) for name, value in now.items() if name in before]


def _comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    rows, training = metrics.get("rows", {}), metrics.get("training", {})
    found = {"rows read": rows.get("read"), "ratings known": _n_known(metrics)}
    found["rows rejected"] = sum(rows.get("rejected", {}).values())
    found |= {key: _published(metrics).get(key) for key in ("users", "items")}
    if training.get("iterations"):
        found |= {key: training["iterations"][-1].get(key) for key in ("objective", "rmse")}
        found["training RMSE"] = found.pop("rmse")
    holdout = {key: value for key, value in metrics.get("holdout", {}).items() if not key.startswith("n_")}
    found |= {f"holdout {_label(key)}": value for key, value in holdout.items()}
    found["seconds"] = round(sum(metrics.get("seconds", {}).values()))
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _change(before: float, now: float) -> str:
    if before == now:
        return "±0"
    return f"{(now - before) / abs(before):+.2%}" if before else f"{now - before:+.4g}"


def _label(key: str) -> str:
    """Label of a metric's key."""
    name, at, k = key.partition("_at_")
    words = {"rmse": "RMSE", "mae": "MAE", "map": "MAP", "ndcg": "NDCG", "n_pairs": "ratings", "n_users": "users"}
    words |= {"n_unknown": "ratings of unknown users or items"}
    return words.get(name, name.replace("_", " ")) + (f"@{k}" if at else "")


def _figures(run: RunFacts, tables: Collected) -> dict[str, go.Figure | None]:
    training, holdout = run.metrics["training"], run.metrics["holdout"]
    iterations, baselines = training["iterations"], run.metrics.get("baselines", {})
    levels = {"holdout": holdout["rmse"]} | {
        f"{name}, holdout": baselines[key].get("rmse") for key, name in _BASELINES.items() if key in baselines
    }
    return {
        "objective": figures.objective_figure(iterations) if iterations else None,
        "error": figures.error_figure(iterations, levels) if iterations else None,
        "seconds": figures.seconds_figure(_seconds(run.metrics)),
        "ratings": figures.bins_figure(tables.ratings, "rating", "ratings"),
        "by_user": figures.bins_figure(tables.ratings_by_user, "ratings of a user", "users"),
        "by_item": figures.bins_figure(tables.ratings_by_item, "ratings of an item", "items"),
        "map": figures.map_figure(tables.item_map) if tables.item_map else None,
        "matrix": figures.matrix_figure(tables.matrix) if tables.matrix else None,
    }


def _seconds(metrics: dict[str, Any]) -> dict[str, float]:
    """Wall time by step, and of training by phase."""
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
