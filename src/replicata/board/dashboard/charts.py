"""Charts as SVG, drawn on the server: they need no script, follow the page's theme, and are the same in static pages.

    line_chart("val/acc", [Series("dagnn", x, y, low, high)], x_label="epoch")
    interval_chart((0.015, 0.029), 0.022, "> 0")
    parallel_chart(axes, lines)

Colours and dashes are classes of the style sheet. Every chart has a name and a description in words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from markupsafe import Markup, escape

COLOURS = 7
MOST_POINTS = 160  # of a line; more are not to be told apart at the width of a page
_numbers = count(1)


@dataclass(frozen=True)
class Series:
    """A line, with a band around it where ``low`` and ``high`` are given.

    Attributes:
        note: Shown beside its name in the legend.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Frame:
    """Where a chart's numbers lie on the page."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        return (
            self.height - self.bottom - (value - self.y0) / (self.y1 - self.y0) * (self.height - self.top - self.bottom)
        )


def number(value: Any) -> str:
    """A number as tables and axes show it: four figures, no row of zeros."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int) or float(value).is_integer():
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within a range."""
    if not low < high:
        return [low]
    raw = (high - low) / most
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def look(at: int) -> str:
    """Classes of the series with this number: a colour, and a dash once the colours are used up."""
    return f"s{at % COLOURS} d{at // COLOURS % 4}"


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str = "epoch", y_label: str = "", wide: bool = True
) -> Markup:
    """Lines over a common axis, with their legend; a chart that is not wide has its title above it."""
    drawn = [_thinned(one) for one in series if len(one.x)]
    if not drawn:
        return Markup("")
    values = [v for one in drawn for v in (*one.y, *(one.low or ()), *(one.high or ())) if math.isfinite(v)]
    xs = [x for one in drawn for x in one.x]
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    pad = (high - low) * 0.04 or abs(high) * 0.05 or 0.5
    x0, x1 = min(xs), max(xs)
    width, height = (1120, 360) if wide else (380, 220)
    frame = Frame(width, height, 58, 14, 12, 42, x0, x1 if x1 > x0 else x0 + 1, low - pad, high + pad)
    name = f"chart{next(_numbers)}"
    parts = [_open(name, frame, title, _description(drawn, x_label))]
    parts += _axes(frame, x_label, y_label or title)
    parts += [_band(frame, one, look(at), at) for at, one in enumerate(drawn) if one.low is not None]
    parts += [_line(frame, one, look(at), at) for at, one in enumerate(drawn)]
    parts.append("</svg>")
    legend = _legend(drawn)
    if wide:
        return Markup(f'<figure class="chart wide" data-chart>{"".join(parts)}{legend}</figure>')
    head = f'<p class="chart-title">{escape(title)}</p>'
    return Markup(f'<figure class="chart" data-chart>{head}{"".join(parts)}{legend}</figure>')


def _thinned(one: Series) -> Series:
    """At most :data:`MOST_POINTS` points, the last one among them."""
    step = -(-len(one.x) // MOST_POINTS)
    if step < 2:
        return one
    keep = sorted({*range(0, len(one.x), step), len(one.x) - 1})
    columns = [None if column is None else [column[at] for at in keep] for column in (one.x, one.y, one.low, one.high)]
    return Series(one.name, columns[0] or [], columns[1] or [], columns[2], columns[3], one.note)


def _open(name: str, frame: Frame, title: str, description: str) -> str:
    data = f'data-x0="{frame.x0:.6g}" data-x1="{frame.x1:.6g}" data-y0="{frame.y0:.6g}" data-y1="{frame.y1:.6g}"'
    box = f'data-box="{frame.left} {frame.top} {frame.width - frame.right} {frame.height - frame.bottom}"'
    return (
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-labelledby="{name}-t {name}-d" {data} {box}>'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
    )


def _description(drawn: Sequence[Series], x_label: str) -> str:
    last = "; ".join(f"{one.name} ends at {number(float(one.y[-1]))}" for one in drawn[:12])
    return f"{len(drawn)} line{'s' * (len(drawn) != 1)} over {x_label}. {last}."


def _axes(frame: Frame, x_label: str, y_label: str) -> list[str]:
    parts = ['<g class="grid">']
    right, bottom = frame.width - frame.right, frame.height - frame.bottom
    for value in ticks(frame.y0, frame.y1, 5):
        y = frame.y(value)
        parts.append(f'<line x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(number(value))}</text>')
    whole = frame.x1 - frame.x0 >= 3
    for value in ticks(frame.x0, frame.x1, 8 if frame.width > 600 else 5):
        if not whole or value == int(value):
            x = frame.x(value)
            parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(number(value))}</text>')
    parts.append(f'</g><line class="axis" x1="{frame.left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text class="label" x="{right}" y="{frame.height - 6}" text-anchor="end">{escape(x_label)}</text>')
    return parts


def _points(frame: Frame, x: Sequence[float], y: Sequence[float]) -> list[str]:
    pairs = zip(x, y, strict=True)
    return [f"{frame.x(a):.1f},{min(max(frame.y(b), -99.0), 9999.0):.1f}" for a, b in pairs if math.isfinite(b)]


def _line(frame: Frame, one: Series, classes: str, at: int) -> str:
    points = _points(frame, one.x, one.y)
    name = f'data-series="{at}" data-name="{escape(one.name)}"'
    if len(points) == 1:
        x, _, y = points[0].partition(",")
        return f'<circle class="line {classes}" {name} cx="{x}" cy="{y}" r="3.5"/>'
    return f'<polyline class="line {classes}" {name} points="{" ".join(points)}"/>'


def _band(frame: Frame, one: Series, classes: str, at: int) -> str:
    assert one.low is not None
    assert one.high is not None
    upper = _points(frame, one.x, one.high)
    lower = _points(frame, one.x, one.low)
    return f'<polygon class="band {classes}" data-series="{at}" points="{" ".join([*upper, *reversed(lower)])}"/>'


def swatch(at: int) -> str:
    """A series' line, for a legend."""
    return (
        '<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true">'
        f'<line class="line {look(at)}" x1="1" x2="25" y1="5" y2="5"/></svg>'
    )


def _legend(drawn: Sequence[Series]) -> str:
    items = []
    for at, one in enumerate(drawn):
        last = number(float(one.y[-1]))
        note = f' <span class="note">{escape(one.note)}</span>' if one.note else ""
        items.append(
            f'<li><button type="button" class="key" data-toggle="{at}" aria-pressed="true">{swatch(at)}'
            f"<span>{escape(one.name)}</span>{note}<b>{last}</b></button></li>"
        )
    return f'<figcaption><ul class="legend">{"".join(items)}</ul></figcaption>'


# Intervals ----------------------------------------------------------------------------------


def interval_chart(interval: tuple[float, float] | None, effect: float | None, region: str, verdict: str) -> Markup:
    """An effect and its interval against the boundary of where the claim wants them; that side is shaded."""
    found = re.match(r"^\s*(>=|<=|>|<)\s*(-?[\d.eE+-]+)$", region or "")
    if found is None or effect is None or not math.isfinite(effect):
        return Markup("")
    boundary, above = float(found[2]), found[1][0] == ">"
    low, high = interval or (effect, effect)
    finite = [value for value in (low, high, effect, boundary) if math.isfinite(value)]
    span = (max(finite) - min(finite)) or abs(boundary) or 1.0
    frame = Frame(300, 58, 10, 10, 8, 22, min(finite) - 0.18 * span, max(finite) + 0.18 * span, 0, 1)
    name = f"chart{next(_numbers)}"
    at = frame.x(boundary)
    edge = frame.width - frame.right if above else frame.left
    start, end = sorted((at, edge))
    clip = [frame.x(min(max(value, frame.x0), frame.x1)) for value in (low, high)]
    said = f"effect {number(effect)}" + (f", 95 % interval {number(low)} to {number(high)}" if interval else "")
    middle = 21
    texts = [(boundary, "boundary")]
    labels = "".join(
        f'<text class="{kind}" x="{min(max(frame.x(value), 24), frame.width - 24):.1f}" y="54" text-anchor="middle">'
        f"{escape(number(value))}</text>"
        for value, kind in texts
    )
    whisker = (
        f'<line class="whisker" x1="{clip[0]:.1f}" x2="{clip[1]:.1f}" y1="{middle}" y2="{middle}"/>'
        + "".join(
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 5}" y2="{middle + 5}"/>'
            for x, value in zip(clip, (low, high), strict=True)
            if math.isfinite(value)
        )
        if interval
        else ""
    )
    return Markup(
        f'<svg class="interval {escape(verdict.replace(" ", "-"))}" viewBox="0 0 {frame.width} {frame.height}"'
        f' role="img" aria-labelledby="{name}-t"><title id="{name}-t">{escape(said)}; wanted {escape(region)}</title>'
        f'<rect class="wanted" x="{start:.1f}" y="4" width="{max(end - start, 0):.1f}" height="34"/>'
        f'<line class="edge" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="40"/>{whisker}'
        f'<circle class="effect" cx="{frame.x(effect):.1f}" cy="{middle}" r="4.5"/>{labels}</svg>'
    )


# Parallel coordinates -----------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates: numbers, or names in their order.

    Attributes:
        logarithmic: Whether numbers are spread by their logarithm.
    """

    name: str
    values: Sequence[Any]
    logarithmic: bool = False
    categories: Sequence[str] = field(default_factory=tuple)

    @classmethod
    def of(cls, name: str, values: Sequence[Any]) -> Axis:
        """An axis that fits the values: one that spans more than a factor of 30 is logarithmic."""
        there = [value for value in values if value is not None]
        if there and all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
            low, high = min(there), max(there)
            return cls(name, values, logarithmic=low > 0 and high / low > 30)
        known = sorted({str(value) for value in values}, key=lambda text: (text == "None", text))
        return cls(name, values, categories=tuple(known))

    def place(self, value: Any) -> float | None:
        """Where a value lies, from 0 at the bottom to 1; ``None`` for one that is missing."""
        if self.categories:
            if len(self.categories) == 1:
                return 0.5
            return self.categories.index(str(value)) / (len(self.categories) - 1)
        if value is None:
            return None
        there = [self._scaled(one) for one in self.values if one is not None]
        low, high = min(there), max(there)
        return 0.5 if high == low else (self._scaled(value) - low) / (high - low)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else float(value)

    def ends(self) -> list[tuple[float, str]]:
        """Ticks: place and text."""
        if self.categories:
            step = -(-len(self.categories) // 9)
            return [(self.place(name) or 0.0, name) for name in self.categories[::step]]
        there = sorted({value for value in self.values if value is not None})
        shown = there if len(there) <= 6 else [there[0], there[-1]]
        return [(place, number(value)) for value in shown if (place := self.place(value)) is not None]


def parallel_chart(title: str, axes: Sequence[Axis], labels: Sequence[str], best: int) -> Markup:
    """A line for every run across all axes; its shade goes with its rank on the last one, which is what is compared.

    Args:
        title: Name of the chart.
        axes: The axes, the metric last.
        labels: Name of every run.
        best: Number of the best run.
    """
    width, height, left, right, top, bottom = 1100, 380, 70, 90, 44, 26
    step = (width - left - right) / max(1, len(axes) - 1)
    at_x = [left + at * step for at in range(len(axes))]
    metric = axes[-1]
    ranks = {value: rank for rank, value in enumerate(sorted({v for v in metric.values if v is not None}))}
    name = f"chart{next(_numbers)}"
    said = f"{len(labels)} runs across {', '.join(axis.name for axis in axes)}; the best is {labels[best]}"
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(said)}</desc>'
    ]
    order = sorted(range(len(labels)), key=lambda run: (run == best, ranks.get(metric.values[run], -1)))
    for run in order:
        points = []
        for x, axis in zip(at_x, axes, strict=True):
            place = axis.place(axis.values[run])
            if place is not None:
                points.append(f"{x:.1f},{top + (1 - place) * (height - top - bottom):.1f}")
        value = metric.values[run]
        shade = "none" if value is None else f"q{5 * ranks[value] // max(1, len(ranks))}"
        classes = f"path {shade}{' best' * (run == best)}"
        tip = f"{labels[run]}: {metric.name} {number(value)}" if value is not None else labels[run]
        parts.append(f'<polyline class="{classes}" points="{" ".join(points)}"><title>{escape(tip)}</title></polyline>')
    for at, (x, axis) in enumerate(zip(at_x, axes, strict=True)):
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}"/>')
        anchor = "start" if at == 0 else "end" if at == len(axes) - 1 else "middle"
        head_x = x + (-left + 4 if at == 0 else right - 4 if at == len(axes) - 1 else 0)
        head = _short(axis.name, 24)
        parts.append(
            f'<text class="head" x="{head_x:.1f}" y="{16 if at % 2 == 0 else 32}" text-anchor="{anchor}">'
            f"{escape(head)}<title>{escape(axis.name)}</title></text>"
        )
        for place, text in axis.ends():
            y = top + (1 - place) * (height - top - bottom) + 4
            short = _short(text, 16)
            parts.append(f'<text class="tick" x="{x + 6:.1f}" y="{y:.1f}">{escape(short)}</text>')
    parts.append("</svg>")
    drawing = "".join(parts)
    return Markup(f'<div class="chart parallel" tabindex="0" role="group" aria-label="overrides">{drawing}</div>')


def _short(text: str, most: int) -> str:
    """The end of a long text, from a dot on if there is one."""
    if len(text) <= most:
        return text
    end = text[-(most - 1) :]
    return f"…{end.partition('.')[2] or end}"


def series_of(curves: Mapping[str, Sequence[tuple[int, int, float]]], metrics: Sequence[str]) -> list[Series]:
    """Metrics of one run over its steps, where these tell more than epochs do."""
    return [
        Series(metric, [point[1] + 1 for point in curves[metric]], [point[2] for point in curves[metric]])
        for metric in metrics
        if metric in curves
    ]
