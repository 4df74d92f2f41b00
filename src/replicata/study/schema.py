"""What a study is made of, as plain frozen classes; :mod:`replicata.study.parse` reads them from a config.

Names. A claim's ``arm`` may be an arm, a panel name that an arm reports (``both60``, or ``lstm/both60`` where
two arms report it), or a group. :meth:`Study.variant` says which run of which arm a name stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any


@dataclass(frozen=True)
class Region:
    """Where a claim wants its effect: above or below a boundary, with or without the boundary itself."""

    boundary: float
    above: bool
    closed: bool

    def __str__(self) -> str:
        sign = {(True, True): ">=", (True, False): ">", (False, True): "<=", (False, False): "<"}
        return f"{sign[self.above, self.closed]} {self.boundary:.12g}"

    def contains(self, value: float) -> bool:
        return self.closed if value == self.boundary else (value > self.boundary) == self.above

    def decide(self, low: float, high: float) -> str:
        """``holds`` if the whole interval lies in the region, ``fails`` if none of it does, else ``inconclusive``."""
        ends = {self.contains(low), self.contains(high)}
        if len(ends) == 2:
            return "inconclusive"
        return "holds" if ends == {True} else "fails"


@dataclass(frozen=True)
class Factor:
    """An axis crossed with arms and seeds: overrides by level."""

    name: str
    levels: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        overrides: What makes it this arm; those of its track included.
        panel: Names under which its run reports variants.
        seeds: Its seeds, the study's unless it says otherwise.
        levels: By factor, the levels at which it is run.
        own_seeds: Whether the arm says so itself.
        track: The track it belongs to.
    """

    name: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    panel: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own_seeds: bool = False
    track: str | None = None

    def cells(self) -> list[tuple[tuple[str, str], ...]]:
        """All combinations of its levels, each as ((factor, level), ...)."""
        return [tuple(zip(self.levels, combination, strict=True)) for combination in product(*self.levels.values())]


@dataclass(frozen=True)
class Group:
    """Arms that a claim takes as one: their best by a named metric, their mean, or all of them pooled."""

    name: str
    arms: tuple[str, ...]
    reduce: str
    by: str | None = None
    higher: bool = True


@dataclass(frozen=True)
class Derived:
    """A column computed from one run: a reduction of a curve, or a function of the paper's file."""

    name: str
    curve: str | None = None
    reduce: str | None = None
    target: Region | None = None
    function: str | None = None
    arms: tuple[str, ...] = ()
    missing: float | None = None


@dataclass(frozen=True)
class Test:
    """One machine-checkable statement: an effect over arms and the region it should lie in.

    Attributes:
        arms: ``arm`` and ``than``, or the arms of a correlation, trend or statistic.
        over: By factor ``each``, ``mean`` or ``pool``.
        where: By factor the level at which the test is made.
        along: Factor whose levels a trend follows; without it the trend follows ``arms``.
        pool: Whether a correlation takes all runs as one sample instead of one coefficient per seed.
    """

    kind: str
    arms: tuple[str, ...]
    region: Region
    metric: str | None = None
    over: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    along: str | None = None
    x: str | None = None
    y: str | None = None
    method: str = "spearman"
    pool: bool = False
    function: str | None = None
    exact: bool = False
    binary: bool = False

    def __str__(self) -> str:
        """All that the test says, as one reads it: ``test/acc: dagnn - gcn > 0``."""
        names = ", ".join(self.arms)
        if self.kind in ("greater", "less", "noninferior"):
            said = f"{self.metric}: {' - '.join(self.arms)} {self.region}"
        elif self.kind in ("ratio_at_most", "ratio_at_least"):
            said = f"{self.metric}: {' / '.join(self.arms)} {self.region}"
        elif self.kind == "threshold":
            said = f"{self.metric}: {names} {self.region}"
        elif self.kind == "trend":
            swept = f"{names} along {self.along}" if self.along else names
            said = f"{self.metric}: {'rising' if self.region.above else 'falling'} over {swept}"
        elif self.kind == "correlation":
            per = "all runs" if self.pool else "the runs of each seed"
            said = f"{self.method} of {self.x} and {self.y} over {per} of {names} {self.region}"
        else:
            said = f"{self.function}({names}) {self.region}"
        said += "".join(f", {factor}={level}" for factor, level in self.where.items())
        said += "".join(f", {how} {factor}" for factor, how in self.over.items())
        return said + ", exact" * self.exact + ", binary" * self.binary


@dataclass(frozen=True)
class Claim:
    """One statement of the paper and the tests that must all hold for it.

    Attributes:
        given: Preconditions.
        controls: The claims that a control is over.
    """

    id: str
    statement: str
    tests: tuple[Test, ...]
    paper: Any = None
    given: tuple[Test, ...] = ()
    role: str = "claim"
    controls: tuple[str, ...] = ()
    strength: str | None = None
    scale: str | None = None


@dataclass(frozen=True)
class Figure:
    """A figure over runs; docs/figures.md says what each kind makes of it.

    Attributes:
        id: Its name, and that of its files.
        kind: ``curve``, ``bars``, ``scatter``, ``heatmap`` or ``images``.
        arms: Arms and panel names, groups resolved.
        where: By factor the level that is shown.
        table: The table of the runs whose columns ``x``, ``y``, ``value`` and ``image`` name; without it they and
            ``metric`` name metrics, and ``x`` may be a run's ``epoch`` or ``step``.
        by: What tells series or rows apart: ``arm``, a factor, or a column of the table.
        files: Pattern of image files under a run's directory.
        band: Around the mean of a curve: ``interval``, ``range``, or the columns of its lower and upper edge.
        front: By axis whether ``lower`` or ``higher`` is better, where a front is drawn.
        reference: Values to compare with, by their label.
    """

    id: str
    kind: str
    title: str
    arms: tuple[str, ...]
    where: Mapping[str, str] = field(default_factory=dict)
    metric: str | None = None
    table: str | None = None
    x: str | None = None
    y: str | None = None
    value: str | None = None
    image: str | None = None
    files: str | None = None
    by: str = "arm"
    band: str | tuple[str, str] = "interval"
    front: Mapping[str, str] = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    x_label: str | None = None
    y_label: str | None = None


@dataclass(frozen=True)
class Tuning:
    """A grid on which the literals of some arms are chosen, before the study and on other seeds.

    Attributes:
        arms: The arms; each is tried at all of the grid's settings.
        metric: What decides, on the validation split.
        higher: Whether more of it is better.
        grid: By config key the values it takes.
        where: By factor the level at which the arms are run.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str
    higher: bool
    grid: Mapping[str, tuple[Any, ...]]
    where: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> list[dict[str, Any]]:
        """All combinations of the grid's values."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


@dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        name: The experiment.
        names: For every arm and panel name the arm that runs, and the panel name.
        retries: How often a run that raised or was killed is tried again.
    """

    name: str
    seeds: tuple[int, ...]
    arms: Mapping[str, Arm]
    factors: Mapping[str, Factor]
    names: Mapping[str, tuple[str, str | None]]
    groups: Mapping[str, Group]
    derived: Mapping[str, Derived]
    missing: Mapping[str, float]
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...]
    tuning: tuple[Tuning, ...] = ()
    retries: int = 0

    @property
    def scale(self) -> str:
        """``paper`` for the paper's own scale, else ``laptop``: claims may be decided at one of them only."""
        return "paper" if self.name.endswith("_paper") else "laptop"

    def variant(self, name: str) -> tuple[Arm, str | None]:
        """The arm whose run holds ``name``, and the panel name within it."""
        arm, panel = self.names[name]
        return self.arms[arm], panel

    def members(self, name: str) -> tuple[str, ...]:
        """The arms of a group, or the name itself."""
        return self.groups[name].arms if name in self.groups else (name,)

    def compared(self, test: Test) -> list[str]:
        """The arm and panel names that a test is about, groups resolved."""
        return [member for name in test.arms for member in self.members(name)]
