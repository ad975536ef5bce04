"""Computes the figures of the report in percent of the plot; `charts.html` draws them as SVG.

With percent a figure fits any width, and its text keeps its size. x grows to the right, y grows downwards.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfspark.report.collect import Bins, ItemMap
from mfspark.report.facts import number, short_number

_N_TICKS = 8
_N_NARROW_TICKS = 6
"""If an axis has more ticks, every second one is hidden on a narrow screen."""
_N_MARKED = 100
"""A line has at most about this many marks, so that the page stays small."""
_N_STEPS = 5
_CROWD = 200
"""If a map has more items, its marks are smaller."""
_N_LABELLED = 40
_LABEL_LENGTH = 24
# In percent of the map: the width of a letter on a wide and on a narrow screen, and the height of a label.
_LETTER_WIDE, _LETTER_NARROW, _LABEL_HEIGHT = 0.75, 2.1, 4.0


class Tick(NamedTuple):
    """A label of an axis."""

    at: float
    label: str
    is_minor: bool = False
    """Hidden on a narrow screen."""


class Mark(NamedTuple):
    """A point, and the text that appears when the pointer is on it."""

    x: float
    y: float
    tip: str


class Line(NamedTuple):
    """A line through marks, or a horizontal line at the level of another model."""

    name: str
    points: str
    """`x,y` pairs in the format of an SVG polyline."""
    marks: list[Mark]
    is_level: bool


class LineChart(NamedTuple):
    """Lines over iterations."""

    x_title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]


class Bar(NamedTuple):
    """A bar of a histogram."""

    x: float
    width: float
    height: float
    tip: str
    label: str
    """The count, which is printed above the bar."""


class BarChart(NamedTuple):
    """A histogram."""

    x_title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: list[Bar]
    is_crowded: bool
    """Whether there are too many bars for their labels on a narrow screen."""


class MapPoint(NamedTuple):
    """An item on the map."""

    x: float
    y: float
    step: int
    """0 to 4: the more ratings, the stronger its color."""
    tip: str


class MapLabel(NamedTuple):
    """The name of an item: right of its point in the left half of the map, left of it in the right half."""

    x: float
    y: float
    text: str
    is_wide_only: bool


class Map(NamedTuple):
    """Items by their coordinates on the two leading components."""

    titles: tuple[str, str]
    points: list[MapPoint]
    """In ascending number of ratings, so that the most rated items are drawn on top."""
    labels: list[MapLabel]
    legend: list[tuple[int, str]]
    """Color step and the smallest number of ratings with it; empty if all items have the same number."""
    is_crowded: bool


def objective_chart(iterations: list[dict[str, Any]]) -> LineChart:
    """Objective and its two parts by iteration."""
    names = {"objective": "objective", "squared_error": "squared error", "penalty": "penalty"}
    return _line_chart(iterations, names, {}, starts_at_zero=True)


def error_chart(iterations: list[dict[str, Any]], levels: dict[str, float | None]) -> LineChart | None:
    """RMSE of training and validation ratings by iteration; None for implicit feedback.

    levels : RMSE of other models, drawn as horizontal lines, by name
    """
    names = {"rmse": "training", "validation_rmse": "validation"}
    names = {key: name for key, name in names.items() if any(record[key] is not None for record in iterations)}
    if not names:
        return None
    return _line_chart(iterations, names, {name: level for name, level in levels.items() if level is not None})


def _line_chart(
    iterations: list[dict[str, Any]], names: dict[str, str], levels: dict[str, float], *, starts_at_zero: bool = False
) -> LineChart:
    values = [record[key] for key in names for record in iterations] + list(levels.values())
    finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0]
    y_ticks = nice_ticks(0.0 if starts_at_zero else min(finite), max(finite))
    low, high = y_ticks[0], y_ticks[-1]
    first, last = iterations[0]["iteration"], iterations[-1]["iteration"]

    def x(iteration: int) -> float:
        return 50.0 if first == last else _share(iteration, first, last)

    def y(value: float) -> float:
        return _share(value, high, low)

    lines = []
    step = math.ceil(len(iterations) / _N_MARKED)
    for key, name in names.items():
        known = [(record["iteration"], record[key]) for record in iterations if record[key] is not None]
        found = [
            Mark(x(iteration), y(value), f"{name}, iteration {iteration}: {number(value)}")
            for iteration, value in known
            if math.isfinite(value)
        ]
        marks = found[::-step][::-1]  # the last iteration always has one
        lines.append(Line(name, " ".join(f"{mark.x:g},{mark.y:g}" for mark in found), marks, is_level=False))
    for name, level in levels.items():
        lines.append(Line(f"{name} {level:.4f}", f"0,{y(level):g} 100,{y(level):g}", [], is_level=True))
    x_step = math.ceil((last - first + 1) / _N_TICKS)
    shown = range(first, last + 1, x_step)
    return LineChart(
        "iteration",
        [Tick(x(place), f"{place:,}", _is_minor(i, len(shown))) for i, place in enumerate(shown)],
        [Tick(y(value), short_number(value)) for value in y_ticks],
        lines,
    )


def bar_chart(bins: Bins, what: str, name: str) -> BarChart:
    """A histogram.

    what : title of the horizontal axis
    name : what the bars count
    """
    y_ticks = nice_ticks(0, max(bins.counts, default=0), whole=True)
    width = 100 / max(len(bins.labels), 1)
    bars = [
        Bar(
            round((place + 0.08) * width, 3), round(0.84 * width, 3), _share(count, y_ticks[0], y_ticks[-1]),
            f"{label}: {count:,} {name}", short_number(count),
        )
        for place, (label, count) in enumerate(zip(bins.labels, bins.counts, strict=True))
    ]  # fmt: skip
    step = math.ceil(len(bins.labels) / (_N_TICKS + 4)) or 1
    shown = [(place, label.partition(" to ")[0]) for place, label in enumerate(bins.labels)][::step]
    is_of_ranges = any(" to " in label for label in bins.labels)
    x_ticks = [
        Tick(round((place + 0.5) * width, 3), _short_label(start), _is_minor(i, len(shown)))
        for i, (place, start) in enumerate(shown)
    ]
    return BarChart(
        what + (", from" if is_of_ranges else ""),
        x_ticks,
        [Tick(_share(value, y_ticks[-1], y_ticks[0]), short_number(value)) for value in y_ticks],
        bars if len(bars) <= _N_TICKS + 4 else [bar._replace(label="") for bar in bars],
        len(bars) > _N_NARROW_TICKS,
    )


def map_chart(items: ItemMap) -> Map:
    """A map of items by the two leading components; items with more ratings have a stronger color."""
    places = _within(items.places)
    low, high = min(items.n_ratings), max(items.n_ratings)
    steps = [_step(n, low, high) for n in items.n_ratings]
    points = [
        MapPoint(float(x), float(y), step, f"{item}: {n:,} ratings")
        for (x, y), step, item, n in zip(places, steps, items.items, items.n_ratings, strict=True)
    ]
    names = [item if len(item) <= _LABEL_LENGTH else f"{item[: _LABEL_LENGTH - 1]}…" for item in items.items]
    narrow = apart(places, names, _LETTER_NARROW, [])
    wide = apart(places, names, _LETTER_WIDE, narrow)
    labels = [
        MapLabel(float(places[item, 0]), float(places[item, 1]), names[item], item not in narrow) for item in wide
    ]
    starts = {step: min(n for n, of in zip(items.n_ratings, steps, strict=True) if of == step) for step in set(steps)}
    legend = [(step, f"{start:,}") for step, start in sorted(starts.items())] if low < high else []
    first, second = (f"{share:.0%} of the variance" for share in items.shares)
    titles = (f"first component, {first}", f"second component, {second}")
    return Map(titles, points[::-1], labels, legend, len(points) > _CROWD)


def heat_steps(cells: Sequence[Sequence[float | None]], bounds: tuple[float, float]) -> list[list[int | None]]:
    """Color step of each cell, 0 to 4, for five parts of the range of equal width; None for a cell without a number."""
    low, high = bounds
    width = (high - low) or 1.0

    def step(cell: float) -> int:
        return int(np.clip((cell - low) / width * _N_STEPS, 0, _N_STEPS - 1))

    return [[None if cell is None else step(cell) for cell in row] for row in cells]


def nice_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round numbers that cover low to high, with a distance of 1, 2 or 5 times a power of ten.

    whole : whether the numbers must be whole
    """
    spread = high - low
    if spread <= 1e-6 * abs(high):  # the labels of ticks so close together would be the same
        spread = abs(high) or 1.0
    rough = spread / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(step, 1.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, max(last, first + 1) + 1)]


def apart(places: NDArray[np.float64], names: list[str], letter: float, before: list[int]) -> list[int]:
    """Choose items whose labels do not overlap, from the first _N_LABELLED ones.

    places : float64[n_items, 2] in percent
    letter : width of a letter, in percent
    before : items that are already chosen; they stay

    Returns the chosen items, those of `before` first.
    """
    chosen = list(before)
    boxes = [_box(places[item], names[item], letter) for item in chosen]
    for item in range(min(_N_LABELLED, len(places))):
        left, top, right, bottom = box = _box(places[item], names[item], letter)
        is_free = all(right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top for other in boxes)
        if item not in chosen and is_free and left >= 0 and right <= 100:
            chosen.append(item)
            boxes.append(box)
    return chosen


def _box(place: NDArray[np.float64], name: str, letter: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the label of a point."""
    x, y = float(place[0]), float(place[1])
    width = letter * (len(name) + 1.5)  # with the gap to the point
    left, right = (x, x + width) if x < 50 else (x - width, x)
    return left, y - _LABEL_HEIGHT / 2, right, y + _LABEL_HEIGHT / 2


def _within(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert places to percent of the plot, with a margin; the second component grows upwards."""
    low, extent = places.min(axis=0), np.ptp(places, axis=0)
    shares = np.where(extent > 0, (places - low) / np.where(extent > 0, extent, 1.0), 0.5)
    percent: NDArray[np.float64] = (3 + 94 * np.column_stack([shares[:, 0], 1 - shares[:, 1]])).round(2)
    return percent


def _step(n: int, low: int, high: int) -> int:
    """Color step, 0 to 4, of a number of ratings, on a logarithmic scale from low to high."""
    share = math.log(n / low) / math.log(high / low) if low < high else 1.0
    return min(int(share * _N_STEPS), _N_STEPS - 1)


def _share(value: float, start: float, end: float) -> float:
    """Where a value lies between start (0) and end (100), in percent."""
    return round(100 * abs((value - start) / (end - start)), 3)


def _is_minor(place: int, n_ticks: int) -> bool:
    return n_ticks > _N_NARROW_TICKS and place % 2 == 1


def _short_label(start: str) -> str:
    """Label for the start of a range; a large whole number is shortened, such as 20k."""
    digits = start.replace(",", "")
    return short_number(int(digits)) if digits.isdecimal() and len(digits) > 4 else start
