"""Renders the report as one HTML file. Does not use Spark."""

import json
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mfspark.report import figures
from mfspark.report.collect import Collected, Matrix
from mfspark.report.facts import RunFacts, changes, holdout_table, number, seconds_by_phase, tiles
from mfspark.report.verdict import verdict
from mfspark.storage.metrics import BASELINES


def page(run: RunFacts, tables: Collected) -> str:
    """The report as one HTML page without scripts, which loads nothing; about 0.1 kB for each item and iteration."""
    environment = Environment(
        loader=PackageLoader("mfspark.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    return environment.get_template("page.html").render(
        run=run,
        manifest=run.manifest,
        metrics=run.metrics,
        training=run.metrics["training"],
        as_json=partial(json.dumps, indent=2, ensure_ascii=False, default=str),
        verdict=verdict(run),
        tiles=tiles(run.metrics, run.manifest["config"]["train"].get("clip")),
        holdout=holdout_table(run.metrics),
        changes=changes(run),
        rejected=run.metrics["rows"]["rejected"],
        tables=tables,
        charts=_charts(run, tables),
        matrix=_heat_tables(tables.matrix) if tables.matrix else [],
        seconds=seconds_by_phase(run.metrics),
    )


def _charts(run: RunFacts, tables: Collected) -> dict[str, Any]:
    """The figures by name; None if there is nothing to draw."""
    training, holdout = run.metrics["training"], run.metrics["holdout"]
    iterations, baselines = training["iterations"], run.metrics.get("baselines", {})
    levels = {"holdout": holdout["rmse"]} | {
        f"{name}, holdout": baselines[key].get("rmse") for key, name in BASELINES.items() if key in baselines
    }
    return {
        "objective": figures.objective_chart(iterations) if iterations else None,
        "error": figures.error_chart(iterations, levels) if iterations else None,
        "ratings": figures.bar_chart(tables.ratings, "rating", "ratings"),
        "by_user": figures.bar_chart(tables.ratings_by_user, "ratings of a user", "users"),
        "by_item": figures.bar_chart(tables.ratings_by_item, "ratings of an item", "items"),
        "map": figures.map_chart(tables.item_map) if tables.item_map else None,
    }


def _heat_tables(matrix: Matrix) -> list[tuple[str, list[list[Any]], list[list[int | None]], str]]:
    """Heading, cells, color steps and number format of two tables: the ratings and the predictions."""
    cells = [cell for row in matrix.ratings + matrix.predictions for cell in row if cell is not None]
    bounds = min(cells), max(cells)
    return [
        ("Ratings", matrix.ratings, figures.heat_steps(matrix.ratings, bounds), "%g"),
        ("Predictions", matrix.predictions, figures.heat_steps(matrix.predictions, bounds), "%.2f"),
    ]
