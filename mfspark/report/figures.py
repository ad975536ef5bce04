"""Figures of the report as plotly data; the page sets the colors, for light and dark mode.

Text from data is escaped, because plotly reads labels as a kind of HTML.
"""

import html
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from mfspark.report.collect import Bins, ItemMap, Matrix

_N_LABELLED = 12
_CROWD = 200  # with more items, labels are unreadable
_N_TICKS = 14
# Width and height of a label as shares of the figure.
_LABEL_SHARE = (0.1, 0.06)
_MARGIN = {"l": 60, "r": 20, "t": 20, "b": 50}


def objective_figure(iterations: list[dict[str, Any]]) -> go.Figure:
    """Objective and its two parts by iteration."""
    figure = go.Figure()
    for key, name in (("objective", "objective"), ("squared_error", "squared error"), ("penalty", "penalty")):
        figure.add_scatter(**_by_iteration(iterations, key), name=name, mode="lines+markers")
    return _styled(figure, "iteration", "", yaxis_rangemode="tozero", **_whole_numbers(len(iterations)))


def error_figure(iterations: list[dict[str, Any]], levels: dict[str, float | None]) -> go.Figure | None:
    """RMSE of training and validation ratings by iteration, with levels for comparison."""
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
    return _styled(figure, "iteration", "RMSE", showlegend=True, **_whole_numbers(len(iterations)))


def bins_figure(bins: Bins, what: str, name: str) -> go.Figure:
    """A histogram."""
    figure = go.Figure(go.Bar(x=bins.labels, y=bins.counts, name=name))
    shown = bins.labels[:: math.ceil(len(bins.labels) / _N_TICKS) or 1]
    starts = [label.partition(" to ")[0] for label in shown]  # the hover text has the whole range
    step = 1 if max(bins.counts, default=0) <= 5 else None  # else the axis would have half users
    return _styled(
        figure, what + (", from" if starts != shown else ""), name,
        xaxis={"type": "category", "tickvals": shown, "ticktext": starts}, yaxis_dtick=step, bargap=0.15,
        showlegend=False,
    )  # fmt: skip


def seconds_figure(seconds: dict[str, float]) -> go.Figure:
    """Wall time by phase, the first phase on top."""
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
        figure, "seconds", "", yaxis_autorange="reversed", yaxis_type="category", yaxis_ticksuffix=" ", bargap=0.3,
        showlegend=False, margin=margin, height=60 + 34 * len(seconds),
    )  # fmt: skip


def map_figure(items: ItemMap) -> go.Figure:
    """Items on the two leading components; more ratings give a stronger color."""
    names = [html.escape(item, quote=False) for item in items.items]
    is_crowded = len(names) > _CROWD
    labelled = set() if is_crowded else _apart(items.places)
    marks = _marks(min(items.n_ratings), max(items.n_ratings))
    drawn = range(len(names))[::-1]  # the most rated last, on top of the others
    figure = go.Figure(
        go.Scatter(
            x=items.places[drawn, 0].round(4).tolist(),
            y=items.places[drawn, 1].round(4).tolist(),
            mode="markers+text",
            text=[names[item] if item in labelled else "" for item in drawn],
            textposition="top center",
            hovertext=[f"{names[item]}: {items.n_ratings[item]:,} ratings" for item in drawn],
            hoverinfo="text",
            marker={
                "color": [math.log10(items.n_ratings[item]) for item in drawn],
                "colorscale": "Viridis",
                "size": 6 if is_crowded else 9,
                "line": {"width": 0.5, "color": "rgba(128,128,128,0.6)"},
                "showscale": len(marks) > 1,
                "colorbar": {
                    "title": {"text": "ratings", "font": {"size": 13}},
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
    """Ratings and predictions side by side, a cell for each user (row) and item, with one color scale."""
    figure = make_subplots(cols=2, rows=1, subplot_titles=("ratings R", "predictions"), horizontal_spacing=0.1)
    items, users = ([html.escape(name, quote=False) for name in names] for names in (matrix.items, matrix.users))
    sides: list[tuple[Any, str]] = [(matrix.ratings, "{:g}"), (matrix.predictions, "{:.2f}")]
    for column, (cells, style) in enumerate(sides, 1):
        text = [["" if cell is None else style.format(cell) for cell in row] for row in cells]
        figure.add_heatmap(
            z=cells, x=items, y=users, text=text, texttemplate="%{text}", textfont={"size": 15}, coloraxis="coloraxis",
            hoverinfo="skip", xgap=3, ygap=3, row=1, col=column,
        )  # fmt: skip
    for user, row in enumerate(matrix.ratings):
        for item, cell in enumerate(row):
            if cell is None:  # by position: plotly would take the id "2" as a position
                figure.add_annotation(x=item, y=user, text="?", showarrow=False, row=1, col=1)
    figure.update_xaxes(type="category", title_text="item", showgrid=False, ticks="")
    figure.update_yaxes(type="category", autorange="reversed", title_text="user", showgrid=False, ticks="")
    figure.update_annotations(font_size=15)
    height = 140 + 46 * len(users)
    return figure.update_layout(
        template="none", height=height, margin={**_MARGIN, "t": 40}, coloraxis={"colorscale": "Blues"}
    )


def _by_iteration(iterations: list[dict[str, Any]], key: str) -> dict[str, list[Any]]:
    return {"x": [record["iteration"] for record in iterations], "y": [record[key] for record in iterations]}


def _whole_numbers(n_iterations: int) -> dict[str, Any]:
    """An axis of iterations, with about ten ticks."""
    return {"xaxis_dtick": max(1, round(n_iterations / 10)), "xaxis_range": [0.5, max(n_iterations, 2) + 0.5]}


def _apart(places: NDArray[np.float64]) -> set[int]:
    """The items, among the first, whose labels do not overlap."""
    extent = np.ptp(places, axis=0)
    scaled = places / np.where(extent > 0, extent, 1.0)
    chosen: list[int] = []
    for item in range(min(_N_LABELLED, len(places))):
        distances = np.abs(scaled[chosen] - scaled[item])
        if not (distances < _LABEL_SHARE).all(axis=1).any():
            chosen.append(item)
    return set(chosen)


def _marks(low: int, high: int) -> list[int]:
    """The ends of a logarithmic scale, and powers of ten between them that are not too close to an end."""
    powers = (10**power for power in range(len(str(high))))
    return sorted({low, high, *(power for power in powers if 1.5 * low < power < high / 1.5)})


def _styled(figure: go.Figure, x_title: str, y_title: str, **layout: Any) -> go.Figure:
    settings = {"template": "none", "height": 320, "margin": _MARGIN, "xaxis_title": x_title, "yaxis_title": y_title}
    settings["legend"] = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return figure.update_layout(**{**settings, **layout})
