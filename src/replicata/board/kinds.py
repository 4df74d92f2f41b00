"""The kinds of figures: each draws its samples on a canvas, and returns what the caption says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from replicata.board import samples as numbers
from replicata.board.axes import (
    LINE,
    beside,
    finish,
    means_text,
    name_ticks,
    nothing_to_show,
    pixels_of,
    placing,
    series_text,
    set_scales,
    step_front,
    whiskers,
)
from replicata.board.samples import Samples, cells, said
from replicata.board.style import FAINT, INK, RAMP, Look, label, looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

MOST_CELLS = 150  # beyond which the cells of a heat map have no numbers
MOST_IMAGES = 10  # in a row


def _curve(canvas: Canvas, samples: Samples) -> str:
    figure = samples.figure
    axes = canvas.add_subplot()
    curves = numbers.lines(samples)
    if not any(curve.x for curve in curves):
        raise nothing_to_show(figure)
    styles = looks(figure, samples.study, [curve.name for curve in curves])
    every = list(dict.fromkeys(x for curve in curves for x in curve.x))
    place = placing(axes, samples, every)
    shade = 0.16 if len(curves) <= 5 else 0.1
    marked = max(len(curve.x) for curve in curves) <= 25
    ends = []
    for curve in curves:
        look = styles[curve.name]
        x = [place(at) for at in curve.x]
        marker = look.marker if marked else ""
        axes.plot(x, curve.mean, color=look.colour, linestyle=look.dash, marker=marker, label=curve.name)
        if any(low < high for low, high in zip(curve.low, curve.high, strict=True)):
            axes.fill_between(x, curve.low, curve.high, color=look.colour, alpha=shade, linewidth=0)
        if x:
            ends.append((series_text(curve.name, samples), look, curve.mean[-1]))
    set_scales(axes, figure, sorted(map(place, every)))
    axes.set_ylabel(figure.y_label or label(figure.metric or figure.y))
    finish(axes, samples, ends)
    return means_text([n for curve in curves for n in curve.n], figure.band)


def _bars(canvas: Canvas, samples: Samples) -> str:
    figure, value = samples.figure, str(samples.figure.metric or samples.figure.y)
    x = str(figure.x)
    found = cells(samples, [x, figure.by], value)
    if not found:
        raise nothing_to_show(figure)
    rows = samples.ordered(x, [row for row, _ in found])
    series = samples.ordered(figure.by, [name for _, name in found])
    grouped = figure.by != x
    styles = looks(figure, samples.study, [said(name) for name in series])
    height = 0.8 / (len(series) if grouped else 1)
    bars = len(rows) * (len(series) if grouped else 1)
    canvas.set_figheight(max(2.6, 1.6 + LINE * 1.25 * bars + 0.12 * len(rows)))
    axes = canvas.add_subplot()
    for at, name in enumerate(series):
        shown = [(row, found[row, name]) for row in rows if (row, name) in found]
        y = [rows.index(row) + (height * (at - (len(series) - 1) / 2) if grouped else 0) for row, _ in shown]
        means = [summary.mean for _, summary in shown]
        axes.barh(y, means, height * 0.86, color=styles[said(name)].colour, alpha=0.85, label=said(name))
        whiskers(axes, y, [summary for _, summary in shown])
        for place, (_, summary) in zip(y, shown, strict=True):
            beside(axes, place, f"{summary.mean:.4g}")
    axes.set_yticks(range(len(rows)), [series_text(said(row), samples) if x == "arm" else said(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    for name, place in figure.reference.items():
        axes.axvline(place, color=FAINT, linestyle=(0, (4, 3)), linewidth=1.1, label=name)
    if grouped or figure.reference:
        handles = {text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        wanted = handles if grouped else {name: handles[name] for name in figure.reference}
        axes.legend(
            wanted.values(),
            wanted.keys(),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            borderaxespad=0.2,
            frameon=False,
        )
    axes.set_xlabel(figure.y_label or label(value))
    axes.set_ylabel(figure.x_label or ("" if x == "arm" else label(x)))
    return means_text([summary.n for summary in found.values()], "interval", "whiskers")


def _scatter(canvas: Canvas, samples: Samples) -> str:
    figure = samples.figure
    x, y = str(figure.x), str(figure.y)
    axes = canvas.add_subplot()
    series = numbers.drawable(samples, [x, y]).series()
    if not series:
        raise nothing_to_show(figure)
    styles = looks(figure, samples.study, list(series))
    ends, centres = [], []
    for name, own in series.items():
        look, points = styles[name], [(float(sample[x]), float(sample[y])) for sample in own]
        center = (sum(px for px, _ in points) / len(points), sum(py for _, py in points) / len(points))
        of_table = figure.table is not None
        xs, ys = zip(*points, strict=True)
        axes.scatter(
            xs,
            ys,
            s=16,
            color=[look.colour],
            marker=look.marker,
            alpha=0.65 if of_table else 0.35,
            linewidths=0,
            label=name,
        )
        if of_table and figure.front:
            step_front(axes, numbers.front(points, figure.front), figure, look)
        elif not of_table:
            axes.scatter(
                [center[0]],
                [center[1]],
                s=60,
                color=[look.colour],
                marker=look.marker,
                edgecolors="white",
                linewidths=0.8,
            )
            centres.append(center)
        ends.append((series_text(name, samples), look, center[1]))
    if figure.front and centres:
        step_front(axes, numbers.front(centres, figure.front), figure, Look(FAINT))
    set_scales(axes, figure)
    axes.set_ylabel(figure.y_label or label(y))
    finish(axes, samples, ends, points=True)
    seeds = len({sample.run.seed for sample in samples.found})
    many = f"{seeds} seed{'s' * (seeds != 1)}"
    said_below = f"rows of {many}" if figure.table else f"small: {many}; large: their mean"
    return said_below + ("; line: the points that no other beats on both axes" if figure.front else "")


def _heatmap(canvas: Canvas, samples: Samples) -> str:
    import numpy as np
    from matplotlib import colormaps

    figure, value = samples.figure, str(samples.figure.metric or samples.figure.value)
    x, y = str(figure.x), str(figure.y)
    found = cells(samples, [x, y], value)
    if not found:
        raise nothing_to_show(figure)
    columns = samples.ordered(x, [key[0] for key in found])
    rows = samples.ordered(y, [key[1] for key in found])
    grid = np.full((len(rows), len(columns)), np.nan)
    for (column, row), summary in found.items():
        grid[rows.index(row), columns.index(column)] = summary.mean
    height = min(5.0, max(1.2, 0.36 * len(rows)))
    canvas.set_figheight(1.9 + height)
    axes = canvas.add_subplot()
    axes.set_facecolor("#f2f2f2")
    image = axes.imshow(grid, cmap=colormaps[RAMP], aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    name_ticks(axes.xaxis, [said(column) for column in columns])
    name_ticks(axes.yaxis, [said(row) for row in rows])
    largest = float(np.nanmax(np.abs(grid)))
    digits = min(4, max(0, 2 - math.floor(math.log10(largest)))) if largest else 0
    if grid.size <= MOST_CELLS and len(columns) <= 14:
        for (row, column), mean in np.ndenumerate(grid):
            red, green, blue, _ = image.cmap(image.norm(mean))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
            text = "" if np.isnan(mean) else f"{mean:.{digits}f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else INK)
    bar = canvas.colorbar(image, ax=axes, pad=0.02, fraction=0.05, aspect=height / 0.15)
    bar.set_label(label(value))
    bar.outline.set_visible(False)
    axes.set_xlabel(figure.x_label or ("" if x == "arm" else label(x)))
    axes.set_ylabel(figure.y_label or ("" if y == "arm" else label(y)))
    return means_text([summary.n for summary in found.values()], "none")


def _images(canvas: Canvas, samples: Samples) -> str:
    figure = samples.figure
    seed = min(sample.run.seed for sample in samples.found)
    samples.found = [sample for sample in samples.found if sample.run.seed == seed]
    series = samples.series()
    x = figure.x or ""
    heads = samples.ordered(x, [sample[x] for sample in samples.found]) if x else []
    if heads:
        rows = {name: {said(sample[x]): sample for sample in own} for name, own in series.items()}
        columns = [said(head) for head in heads]
    else:
        rows = {name: {str(at): sample for at, sample in enumerate(own)} for name, own in series.items()}
        columns = [str(at) for at in range(max(map(len, rows.values())))]
    if len(columns) > MOST_IMAGES:
        samples.notes.append(f"the first {MOST_IMAGES} of {len(columns)} images")
        columns = columns[:MOST_IMAGES]
    canvas.set_figheight(1.2 + len(rows) * min(1.6, 7.6 / len(columns)))
    canvas.set_layout_engine("compressed")
    grid = canvas.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, column in zip(line, columns, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            if column in images:
                axes.imshow(pixels_of(images[column], figure), cmap="gray", interpolation="nearest")
            if heads and axes in grid[0]:
                axes.set_title(column, fontsize=10)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    return f"seed {seed}"


DRAW: Mapping[str, Callable[[Canvas, Samples], str]] = {
    "curve": _curve,
    "bars": _bars,
    "scatter": _scatter,
    "heatmap": _heatmap,
    "images": _images,
}
