"""What the kinds of figures are put together from: axes, ticks, labels, words."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicata.board import samples as numbers
from replicata.board.samples import Sample, Samples, Summary, said
from replicata.board.style import FAINT, HEIGHT, INK, Look, label
from replicata.errors import UserError
from replicata.study.schema import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.24  # inches of a line of labels
MOST_TICKS = 8  # at the points themselves


def finish(axes: Axes, samples: Samples, ends: Sequence[tuple[str, Look, float]], points: bool = False) -> None:
    """The x axis, reference lines, and the names of the series to the right of the axes, each at its line's end."""
    figure, canvas = samples.figure, axes.get_figure(root=True)
    assert canvas is not None
    axes.set_xlabel(figure.x_label or label(figure.x))
    entries = [(name, look, place, not points) for name, look, place in ends]
    for name, value in figure.reference.items():
        look = Look(FAINT, (0, (4, 3)))
        axes.axhline(value, color=look.colour, linestyle=look.dash, linewidth=1.1)
        entries.append((name, look, value, True))
    canvas.set_figheight(max(HEIGHT, 1.9 + LINE * len(entries)))
    canvas.draw_without_rendering()
    wanted = [axes.transAxes.inverted().transform(axes.transData.transform((1, at)))[1] for _, _, at, _ in entries]
    inches = axes.get_window_extent().height / canvas.dpi
    for (name, look, _, line), at in zip(entries, spread(wanted, LINE / inches), strict=True):
        xs = [1.015, 1.05] if line else [1.032]
        axes.plot(
            xs,
            [at] * len(xs),
            color=look.colour,
            linestyle=look.dash if line else "",
            marker="" if line else look.marker,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(1.06, at, textwrap.shorten(name, 40), transform=axes.transAxes, va="center", fontsize=10)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places between 0 and 1 moved as little as needed so that they are a gap apart."""
    blocks: list[list[int]] = []
    centres: list[float] = []
    for at in sorted(range(len(places)), key=lambda index: places[index]):
        blocks.append([at])
        centres.append(min(1.0, max(0.0, places[at])))
        while len(blocks) > 1 and centres[-1] - centres[-2] < gap * (len(blocks[-1]) + len(blocks[-2])) / 2:
            upper, center = blocks.pop(), centres.pop()
            total = len(blocks[-1]) + len(upper)
            centres[-1] = (centres[-1] * len(blocks[-1]) + center * len(upper)) / total
            blocks[-1] += upper
            half = gap * (total - 1) / 2
            centres[-1] = min(max(centres[-1], half), max(half, 1 - half))
    moved = list(places)
    for block, center in zip(blocks, centres, strict=True):
        for rank, index in enumerate(block):
            moved[index] = center + gap * (rank - (len(block) - 1) / 2)
    return moved


def nothing_to_show(figure: Figure) -> UserError:
    return UserError(f"figure {figure.id}: no finite value to show")


def placing(axes: Axes, samples: Samples, found: Sequence[Any]) -> Any:
    """The function from a value of x to its place on the axis: itself, or its rank where not all are numbers."""
    if all(numbers.is_number(x) for x in found):
        return float
    names = [said(x) for x in samples.ordered(str(samples.figure.x), found)]
    name_ticks(axes.xaxis, names)
    return lambda x: names.index(said(x))


def name_ticks(axis: Any, names: Sequence[str]) -> None:
    """A label at every place, or at some of very many."""
    step = 1 + len(names) // 30
    crowded = axis.axis_name == "x" and sum(map(len, names[::step])) > 90
    places = range(0, len(names), step)
    axis.set_ticks(places, names[::step], **({"rotation": 40, "ha": "right"} if crowded else {}))


def set_scales(axes: Axes, figure: Figure, x: Sequence[float] = ()) -> None:
    """Logarithmic axes where wanted, numbers as people write them, ticks at the points where these are few."""
    from matplotlib.ticker import AutoLocator, EngFormatter, FixedLocator, FuncFormatter, NullFormatter, NullLocator

    for logarithmic, axis, set_scale in (
        (figure.log_x, axes.xaxis, axes.set_xscale),
        (figure.log_y, axes.yaxis, axes.set_yscale),
    ):
        if logarithmic:
            set_scale("log")
        low, high = axis.get_view_interval()
        narrow = logarithmic and high < 10 * low
        if narrow:
            axis.set_major_locator(AutoLocator())
            axis.set_minor_locator(NullLocator())
        if high >= 1e5 and (narrow or not logarithmic):
            axis.set_major_formatter(EngFormatter(sep=""))
        elif logarithmic and low >= 1e-3 and high <= 1e5:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    few = 1 < len(x) <= MOST_TICKS and min(x) > 0
    if figure.log_x and few and all(right / left > (x[-1] / x[0]) ** 0.05 for left, right in pairwise(x)):
        axes.xaxis.set_major_locator(FixedLocator(list(x)))
        axes.xaxis.set_minor_locator(NullLocator())


def step_front(axes: Axes, points: Sequence[tuple[float, float]], figure: Figure, look: Look) -> None:
    """A line in steps: between two points of a front nothing better than both is known."""
    better_left = figure.front["x"] == "lower"
    x, y = zip(*points, strict=True)
    axes.step(x, y, where="post" if better_left else "pre", color=look.colour, linewidth=1.4, linestyle=look.dash)


def whiskers(axes: Axes, y: Sequence[float], summaries: Sequence[Summary]) -> None:
    below = [summary.mean - summary.low for summary in summaries]
    above = [summary.high - summary.mean for summary in summaries]
    means = [summary.mean for summary in summaries]
    axes.errorbar(means, y, xerr=[below, above], fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)


def beside(axes: Axes, y: float, text: str) -> None:
    axes.text(1.012, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9.5)


def series_text(name: str, samples: Samples) -> str:
    """A series' name, with what it is a value of, or the number of its seeds where some are missing."""
    if samples.figure.by not in ("arm", *samples.study.factors) and numbers.is_number(name):
        return f"{label(samples.figure.by)} {name}"
    planned = samples.seeds.get(name, set())
    there = {sample.run.seed for sample in samples.found if sample.run.arm == name} if planned else planned
    return name if there == planned else f"{name} ({len(there)} of {len(planned)} seeds)"


def means_text(counts: Sequence[int], band: str | tuple[str, str], mark: str = "band") -> str:
    """What lines and bands are, from the numbers of seeds behind them."""
    least, most = min(counts), max(counts)
    seeds = f"{most}" if least == most else f"{least} to {most}"
    if most == 1:
        return "one seed" + (f"; {mark}: {' to '.join(band)}" if isinstance(band, tuple) else "")
    if isinstance(band, tuple):
        around = f"; {mark}: mean {' to '.join(band)}"
    elif band == "none":
        around = ""
    elif band == "range" or most < numbers.FEWEST:
        around = f"; {mark}: lowest to highest"
    else:
        around = f"; {mark}: 95 % interval of the mean" + (" (range of two)" if least == 2 else "")
    return f"mean of {seeds} seeds{around}"


def pixels_of(sample: Sample, figure: Figure) -> Any:
    """An image of a table (rows of numbers, encoded bytes, a path under the run's directory) or of a file."""
    import numpy as np
    from matplotlib.image import imread

    value = sample[str(figure.image)] if figure.image else sample["image"]
    if isinstance(value, str):
        root = Path(str(sample.run.directory)).resolve()
        path = (root / value).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise UserError(f"figure {figure.id}: {sample.run.label} has no image file {value!r} in its directory")
        value = path
    if isinstance(value, bytes):
        value = io.BytesIO(value)
    if isinstance(value, Path | io.BytesIO):
        return imread(value)
    pixels = np.asarray(value, dtype=float)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3):
        raise UserError(
            f"figure {figure.id}: an image has 2 or 3 dimensions, column {figure.image!r} has {pixels.ndim}"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        pixels = (pixels - low) / ((high - low) or 1.0)
    return pixels.squeeze()
