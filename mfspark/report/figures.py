"""Figures of the report, as plotly's own data; colours come with the page, which knows light from dark.

Text from data is escaped: plotly reads its labels as a kind of HTML.
"""

import html
import math
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mfspark.report.collect import Bins, ItemMap, Matrix

_N_LABELLED = 12
_MARGIN = {"l": 60, "r": 20, "t": 20, "b": 50}


def objective_figure(iterations: list[dict[str, Any]]) -> go.Figure:
    """Objective, and the two parts it is the sum of, by iteration."""
    figure = go.Figure()
    for key, name in (("objective", "objective"), ("squared_error", "squared error"), ("penalty", "penalty")):
        figure.add_scatter(**_by_iteration(iterations, key), name=name, mode="lines+markers")
    return _styled(figure, "iteration", "", yaxis_rangemode="tozero", xaxis_dtick=_step(len(iterations)))


def error_figure(iterations: list[dict[str, Any]], levels: dict[str, float | None]) -> go.Figure | None:
    """RMSE by iteration of the training and the validation ratings; beside it levels to compare them with."""
    figure = go.Figure()
    for key, name in (("rmse", "training"), ("validation_rmse", "validation")):
        if any(record[key] is not None for record in iterations):
            figure.add_scatter(**_by_iteration(iterations, key), name=name, mode="lines+markers")
    if not figure.data:
        return None
    ends = [iterations[0]["iteration"], max(iterations[-1]["iteration"], 2)]
    for name, level in levels.items():
        if level is not None:
            figure.add_scatter(
                x=ends, y=[level, level], name=f"{name} {level:.4f}", mode="lines", line={"dash": "dot", "width": 2}
            )
    return _styled(figure, "iteration", "RMSE", xaxis_dtick=_step(len(iterations)))


def bins_figure(bins: Bins, what: str, name: str) -> go.Figure:
    """A histogram."""
    figure = go.Figure(go.Bar(x=bins.labels, y=bins.counts, name=name))
    return _styled(figure, what, name, xaxis_type="category", bargap=0.15, showlegend=False)


def seconds_figure(seconds: dict[str, float]) -> go.Figure:
    """Wall time by phase, the first on top."""
    figure = go.Figure(
        go.Bar(
            x=list(seconds.values()),
            y=list(seconds),
            orientation="h",
            text=[f"{value:.1f}" for value in seconds.values()],
            textposition="outside",
            cliponaxis=False,
        )
    )
    margin = {**_MARGIN, "l": 120, "r": 60}
    return _styled(
        figure, "seconds", "", yaxis_autorange="reversed", yaxis_type="category", bargap=0.3, showlegend=False,
        margin=margin, height=60 + 34 * len(seconds),
    )  # fmt: skip


def map_figure(items: ItemMap) -> go.Figure:
    """Items in the plane of the two leading components; the more ratings, the stronger the colour."""
    names = [html.escape(item, quote=False) for item in items.items]
    labelled = [name if place < _N_LABELLED else "" for place, name in enumerate(names)]
    marks = _powers_of_ten(items.n_ratings)
    figure = go.Figure(
        go.Scatter(
            x=items.places[:, 0].round(4).tolist(),
            y=items.places[:, 1].round(4).tolist(),
            mode="markers+text",
            text=labelled,
            textposition="top center",
            hovertext=[f"{name}: {n:,} ratings" for name, n in zip(names, items.n_ratings, strict=True)],
            hoverinfo="text",
            marker={
                "color": [math.log10(n) for n in items.n_ratings],
                "colorscale": "Viridis",
                "size": 9,
                "line": {"width": 0.5, "color": "rgba(128,128,128,0.6)"},
                "colorbar": {
                    "title": {"text": "ratings"},
                    "tickvals": [math.log10(mark) for mark in marks],
                    "ticktext": [f"{mark:,}" for mark in marks],
                    "thickness": 14,
                },
            },
        )
    )
    first, second = (f"{share:.0%} of the variance" for share in items.shares)
    return _styled(figure, f"first component, {first}", f"second component, {second}", showlegend=False, height=520)


def matrix_figure(matrix: Matrix) -> go.Figure:
    """Ratings beside predictions, a cell for each user (row) and item, with one scale of colours."""
    figure = make_subplots(cols=2, rows=1, subplot_titles=("ratings R", "predictions"), horizontal_spacing=0.1)
    items, users = ([html.escape(name, quote=False) for name in names] for names in (matrix.items, matrix.users))
    sides: list[tuple[Any, str]] = [(matrix.ratings, "{:g}"), (matrix.predictions, "{:.2f}")]
    for column, (cells, style) in enumerate(sides, 1):
        text = [["" if cell is None else style.format(cell) for cell in row] for row in cells]
        figure.add_heatmap(
            z=cells, x=items, y=users, text=text, texttemplate="%{text}", textfont={"size": 15}, coloraxis="coloraxis",
            hoverinfo="skip", xgap=3, ygap=3, row=1, col=column,
        )  # fmt: skip
    for user, row in zip(users, matrix.ratings, strict=True):
        for item, cell in zip(items, row, strict=True):
            if cell is None:
                figure.add_annotation(x=item, y=user, text="?", showarrow=False, row=1, col=1)
    figure.update_xaxes(type="category", title_text="item", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", title_text="user", showgrid=False)
    height = 140 + 46 * len(users)
    return figure.update_layout(
        template="none", height=height, margin={**_MARGIN, "t": 40}, coloraxis={"colorscale": "Blues"}
    )


def _by_iteration(iterations: list[dict[str, Any]], key: str) -> dict[str, list[Any]]:
    return {"x": [record["iteration"] for record in iterations], "y": [record[key] for record in iterations]}


def _step(n_iterations: int) -> int:
    """Iterations between two ticks: whole, and about ten of them."""
    return max(1, round(n_iterations / 10))


def _powers_of_ten(counts: list[int]) -> list[int]:
    return [10**power for power in range(len(str(max(counts)))) if min(counts) <= 10**power <= max(counts)] or [
        max(counts)
    ]


def _styled(figure: go.Figure, x_title: str, y_title: str, **layout: Any) -> go.Figure:
    settings = {"template": "none", "height": 320, "margin": _MARGIN, "xaxis_title": x_title, "yaxis_title": y_title}
    settings["legend"] = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return figure.update_layout(**{**settings, **layout})
