"""What a declared figure shows, as numbers: collected from runs, grouped into series, summarised over seeds.

    samples = collect(figure, table)          # one sample per table row, point of a curve, or run; and what is missing
    curves = lines(figure, samples)           # Curve(name, x, mean, low, high, n), for kind: curve
    summary = summarise([0.81, 0.83, 0.82])   # Summary(mean, low, high, n)

Nothing is drawn here, so that whoever draws (:mod:`replicata.board.figures`, a page) shows the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from replicata.errors import UserError, nearest
from replicata.study.schema import Figure, Study
from replicata.study.table import Row, Table

WITHIN = ("epoch", "step")  # the axes of a curve that a run draws itself
WINDOWS_FROM = 200  # points of a curve beyond which it is shown by windows
WINDOWS = 100
FEWEST = 3  # values that carry an interval


@dataclass(frozen=True)
class Sample:
    """Named values of one run: a row of its table, a point of its curve, or its final metrics."""

    run: Row
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name == "arm":
            return self.run.arm
        return dict(self.run.levels).get(name, self.values.get(name))


@dataclass
class Samples:
    """What was found for a figure.

    Attributes:
        found: The samples, in the order of arms, levels, seeds and rows.
        problems: One line for each way in which runs have nothing to show.
        notes: What the reader of the figure must know.
        seeds: By name of a series, the seeds that were planned for it.
    """

    figure: Figure
    study: Study
    found: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seeds: dict[str, set[int]] = field(default_factory=dict)

    def series(self) -> dict[str, list[Sample]]:
        """The samples by the value of ``by``, in the order in which the study or the table names these."""
        groups: dict[Any, list[Sample]] = {}
        for sample in self.found:
            groups.setdefault(sample[self.figure.by], []).append(sample)
        return {said(key): groups[key] for key in self.ordered(self.figure.by, groups)}

    def ordered(self, name: str, keys: Iterable[Any]) -> list[Any]:
        """Values of an axis or of ``by`` in order: of the config, of size, or of their appearance."""
        unique = list(dict.fromkeys(keys))
        if name == "arm":
            return sorted(unique, key=self.figure.arms.index)
        if name in self.study.factors and set(unique) <= set(self.study.factors[name].levels):
            return sorted(unique, key=list(self.study.factors[name].levels).index)
        return sorted(unique) if all(is_number(key) for key in unique) else unique


@dataclass(frozen=True)
class Summary:
    """A mean over seeds and the interval around it; without an interval its ends are the mean."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Curve:
    """A line with its band; ``x`` are numbers, or names where the axis has no numbers."""

    name: str
    x: list[Any]
    mean: list[float]
    low: list[float]
    high: list[float]
    n: list[int]


# Collecting ---------------------------------------------------------------------------------


def collect(figure: Figure, table: Table) -> Samples:
    """The samples of a figure from the finished runs of its arms."""
    samples = Samples(figure, table.study)
    reasons: dict[str, list[str]] = {}
    for run in table.select(figure.arms, figure.where):
        if figure.by == "arm":
            samples.seeds.setdefault(run.arm, set()).add(run.seed)
        try:
            samples.found += _of_run(figure, table, run, samples.notes)
        except UserError as error:
            reasons.setdefault(str(error), []).append(run.label)
    for reason, labels in reasons.items():
        more = f", and {len(labels) - 1} more run{'s' * (len(labels) > 2)}" if len(labels) > 1 else ""
        samples.problems.append(f"figure {figure.id}: {labels[0]}{more}: {reason}")
    return samples


def _of_run(figure: Figure, table: Table, run: Row, notes: list[str]) -> list[Sample]:
    """The samples of one run; a :class:`UserError` says why it has none."""
    if figure.table is None and figure.files is None and figure.x not in WITHIN:
        return [Sample(run, _final(figure, table, run, notes))]
    if run.status != "finished":
        known = {"missing": "not run", "running": "not finished", "interrupted": "interrupted", "diverged": "diverged"}
        raise UserError(known.get(run.status, f"{run.status}: {run.reason}"))
    if figure.files is not None:
        assert run.directory is not None
        found = sorted(path for path in run.directory.glob(figure.files) if path.is_file())
        if not found:
            raise UserError(f"no file {figure.files!r}")
        return [Sample(run, {"image": path, "file": path.stem}) for path in found]
    if figure.table is None:
        metric = str(figure.metric)
        if metric not in run.curves:
            raise UserError(f"no curve {metric!r} in metrics.csv; {nearest(metric, run.curves)}")
        return [Sample(run, {"epoch": e, "step": s + 1, metric: value}) for e, s, value in run.curves[metric]]
    return _rows(figure, table.study, run)


def _rows(figure: Figure, study: Study, run: Row) -> list[Sample]:
    name = str(figure.table)
    names = list(run.tables)  # without reading any
    if name not in names:
        raise UserError(f"no table {name!r}; {nearest(name, names)}")
    try:
        rows = run.tables[name]
    except Exception as error:  # whatever pyarrow says about a damaged file
        raise UserError(f"table {name!r} cannot be read ({type(error).__name__})") from None
    edges = figure.band if isinstance(figure.band, tuple) else ()
    columns = {column for row in rows for column in row}
    for column in (figure.x, figure.y, figure.value, figure.image, figure.by, *edges):
        if column is not None and column != "arm" and column not in study.factors and column not in columns:
            raise UserError(f"no column {column!r} in table {name!r}; {nearest(column, columns)}")
    return [Sample(run, row) for row in rows]


def _final(figure: Figure, table: Table, run: Row, notes: list[str]) -> dict[str, float]:
    """The final metrics that a figure names, measured, derived or declared."""
    names = [figure.metric] if figure.metric else [figure.x, figure.y]
    values = {}
    for name in names:
        value = table.value(run.arm, run.levels, run.seed, str(name))
        if value.value is None:
            raise UserError(value.problem.removeprefix(run.label).strip())
        notes += [value.note] if value.note else []
        values[str(name)] = value.value
    return values


# Summaries ----------------------------------------------------------------------------------


def summarise(values: Sequence[float], band: str = "interval") -> Summary:
    """Mean of one value per seed, with Student's 95 % interval from three values on, or the values' range."""
    mean = math.fsum(values) / len(values)
    if band == "range" or len(values) < FEWEST:
        return Summary(mean, min(values), max(values), len(values))
    from scipy.special import stdtrit

    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(stdtrit(len(values) - 1, 0.975)) * spread / math.sqrt(len(values))
    return Summary(mean, mean - half, mean + half, len(values))


def lines(samples: Samples) -> list[Curve]:
    """The curves of a figure, one for each value of ``by``; what was averaged is added to the notes."""
    figure = samples.figure
    y = str(figure.metric or figure.y)
    edges = figure.band if isinstance(figure.band, tuple) else None
    points = drawable(samples, [str(figure.x), y, *(edges or ())])
    logs = figure.log_y and edges is None and all(sample[y] > 0 for sample in points.found)
    drawn = []
    axis = axis_of(points, str(figure.x))
    for name, own in points.series().items():
        by_seed: dict[int, dict[Any, list[tuple[float, ...]]]] = {}
        for sample in own:
            values = tuple(float(sample[column]) for column in (y, *(edges or ())))
            at = by_seed.setdefault(sample.run.seed, {}).setdefault(axis(sample), [])
            at.append((math.log(values[0]),) if logs else values)
        if any(len(rows) > 1 for points_of in by_seed.values() for rows in points_of.values()):
            samples.notes.append(f"{name}: several rows at one {figure.x} are averaged")
        x, columns = _windows(by_seed, samples, WINDOWS if not figure.log_x else 0)
        drawn.append(_curve(name, x, columns, figure, logs))
    if logs:
        samples.notes.append("means are geometric")
    elif figure.log_y and any(sample[y] <= 0 for sample in points.found):
        samples.notes.append("values of 0 and below are not on the logarithmic axis")
    return drawn


def cells(samples: Samples, names: Sequence[str], value: str, band: str = "interval") -> dict[tuple[Any, ...], Summary]:
    """The summary of a value over seeds, at each combination of what ``names`` name."""
    found: dict[tuple[Any, ...], dict[int, list[float]]] = {}
    for sample in drawable(samples, [*names, value]).found:
        key = tuple(sample[name] for name in names)
        found.setdefault(key, {}).setdefault(sample.run.seed, []).append(float(sample[value]))
    return {
        key: summarise([math.fsum(rows) / len(rows) for rows in by_seed.values()], band)
        for key, by_seed in found.items()
    }


def axis_of(samples: Samples, name: str) -> Any:
    """The function from a sample to its place on an axis: a number, or a name where not all are numbers."""
    values = [sample[name] for sample in samples.found]
    return (lambda sample: float(sample[name])) if all(map(is_number, values)) else (lambda sample: said(sample[name]))


def drawable(samples: Samples, names: Sequence[str]) -> Samples:
    """Only the samples that can be drawn.

    A row without a value says nothing; how many have one that is not finite, or not on a logarithmic axis, is noted.
    """

    def fits(sample: Sample, name: str) -> bool:
        value = sample[name]
        logarithmic = samples.figure.log_x and name == samples.figure.x
        return not is_number(value) or (math.isfinite(float(value)) and not (logarithmic and float(value) <= 0))

    there = [sample for sample in samples.found if all(sample[name] is not None for name in names)]
    kept = [sample for sample in there if all(fits(sample, name) for name in names)]
    left = len(there) - len(kept)
    if left:
        place = " or off the logarithmic axis" if samples.figure.log_x else ""
        samples.notes.append(f"{left} point{'s' * (left > 1)} without a finite value{place} left out")
    return replace(samples, found=kept)


def _windows(
    by_seed: Mapping[int, Mapping[Any, list[tuple[float, ...]]]], samples: Samples, windows: int
) -> tuple[list[Any], list[list[tuple[float, ...]]]]:
    """The places of a curve and at each the values of the seeds.

    A curve that runs draw themselves ends where the first of its seeds ends: a mean over those that are left is
    another mean. One of very many points is averaged over windows.
    """
    figure = samples.figure
    places = list(dict.fromkeys(x for points in by_seed.values() for x in points))
    numeric = all(is_number(x) for x in places)
    if numeric:
        places.sort()
    else:
        places = samples.ordered(str(figure.x), places)
    if figure.x in WITHIN and figure.table is None:
        common = [x for x in places if all(x in points for points in by_seed.values())]
        if len(common) < len(places):
            samples.notes.append("curves end where the first seed ends")
        places = common
    size = math.ceil(len(places) / windows) if numeric and windows and len(places) > WINDOWS_FROM else 1
    if size > 1:
        samples.notes.append(f"averaged over windows of {size} points")
    x: list[Any] = []
    columns: list[list[tuple[float, ...]]] = []
    for start in range(0, len(places), size):
        inside = places[start : start + size]
        x.append(sum(inside) / len(inside) if size > 1 else inside[0])
        at = [[row for place in inside for row in points.get(place, ())] for points in by_seed.values()]
        columns.append(
            [tuple(math.fsum(value) / len(rows) for value in zip(*rows, strict=True)) for rows in at if rows]
        )
    return x, columns


def _curve(name: str, x: list[Any], columns: list[list[tuple[float, ...]]], figure: Figure, logs: bool) -> Curve:
    if isinstance(figure.band, tuple):
        means = [[math.fsum(value) / len(rows) for value in zip(*rows, strict=True)] for rows in columns]
        mean, low, high = ([row[at] for row in means] for at in range(3))
        return Curve(name, x, mean, low, high, [len(rows) for rows in columns])
    found = [summarise([row[0] for row in rows], figure.band) for rows in columns]
    back = math.exp if logs else float
    return Curve(
        name=name,
        x=x,
        mean=[back(point.mean) for point in found],
        low=[back(point.low) for point in found],
        high=[back(point.high) for point in found],
        n=[point.n for point in found],
    )


def front(points: Iterable[tuple[float, float]], better: Mapping[str, str]) -> list[tuple[float, float]]:
    """The points that no other beats on both axes, along x."""
    sign = {"lower": 1.0, "higher": -1.0}
    sx, sy = sign[better["x"]], sign[better["y"]]
    kept: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (sx * point[0], sy * point[1])):
        if not kept or sy * y < sy * kept[-1][1]:
            kept.append((x, y))
    return sorted(kept)


def is_number(value: Any) -> bool:
    """Whether a value, or the text of a level, is a number."""
    if isinstance(value, bool) or value is None:
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def said(value: Any) -> str:
    """A value of ``by`` or of an axis as a label."""
    return f"{value:g}" if isinstance(value, float) else str(value)
