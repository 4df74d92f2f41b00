"""The table of runs: what a study's claims, report and figures read.

    table = read(study, [(spec, directory), ...])       # the records under the runs' directories
    table = Table(study, [row(spec, record), ...])      # or from records at hand
    table.value("dagnn", (("data", "cora"),), 3, "test/acc")   # Value(0.84), or Value(None, problem="...")

A row is one arm, at one level of each of its factors, with one seed; the panel of a run gives rows of its own.
Every planned run has a row, whether or not it was run: nothing is dropped silently.

A metric is taken from the record, or derived (``study.derived``) from the run's ``metrics.csv``, tables and other
runs of the same seed; curves and tables are read only when a derived column asks for them. A run that **diverged**
(its loss or a final metric was not finite), or that finished without a metric, counts as ``missing:`` says for that
metric, and the value carries a note. Where nothing is declared, and for every other failure (an exception, no memory,
a full disk, not run yet), there is no value but a problem, in one line.

Functions that a config names (``function:``) live in the paper's own file and are imported when first called, and
with them whatever that file imports, torch as a rule. They see runs as plain mappings::

    def epochs_to_target(run: Mapping[str, Any], constant: Mapping[str, Any]) -> float:
        target = constant["metrics"]["val/acc"]
        return next((epoch for epoch, step, value in run["curves"]["val/acc"] if value >= target), math.nan)

with keys ``arm, levels, seed, metrics`` (declared missing values filled in), ``curves`` (metric -> [(epoch, step,
value)], epochs counted from 1), ``tables`` (name -> list of rows). A derived column gets its own run first and then
the runs of the arms under ``from:``, with the same seed and levels; NaN stands for a missing value. A statistic gets
the list of all runs of its arms.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from replicata.errors import UserError, nearest
from replicata.run.failures import Failure
from replicata.study.plan import Cell, RunSpec, label
from replicata.study.schema import Derived, Study

DIVERGED = ("diverged", "not_finite")
Function = Callable[..., Any]
Point = tuple[int, int, float]


@dataclass(frozen=True)
class Value:
    """A metric of one run, or the reason why there is none. ``note`` tells that it was declared, not measured."""

    value: float | None
    note: str = ""
    problem: str = ""

    @property
    def number(self) -> float:
        """The value, where there is one."""
        assert self.value is not None, self.problem
        return self.value


@dataclass(frozen=True)
class Row:
    """One run under one of its names.

    Attributes:
        arm: Arm or panel name.
        status: ``finished``, ``diverged``, ``failed``, ``running``, ``interrupted``, ``damaged``; ``missing``: not run.
        reason: Why it failed.
        metrics: Final metrics.
        record: The whole record of the run, shared by the rows of its panel.
        directory: Where the run is.
    """

    arm: str
    levels: Cell
    seed: int
    status: str
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    panel: str | None = None

    @property
    def label(self) -> str:
        return label(self.arm, self.levels, self.seed)

    @property
    def tested(self) -> Mapping[str, float]:
        """The metrics of the weights that the run tested: with ``test: best`` not the last epoch's, but the best one's.

        A panel has one set of metrics, which its run reported.
        """
        if self.record.get("test") != "best" or self.panel is not None:
            return self.metrics
        return {**self.metrics, **(self.record.get("selected") or {}).get("metrics", {})}

    @cached_property
    def curves(self) -> Mapping[str, list[Point]]:
        """The columns of ``metrics.csv`` as (epoch, step, value), epochs counted from 1; a panel has none."""
        if self.directory is None or self.panel is not None:
            return {}
        return read_curves(self.directory / "metrics.csv")

    @cached_property
    def tables(self) -> Mapping[str, list[dict[str, Any]]]:
        """The run's tables, each read when it is asked for."""
        return _Tables(self.directory)


def rows(study: Study, spec: RunSpec, record: Mapping[str, Any] | None, directory: Path | None = None) -> list[Row]:
    """The rows of one run: its arm's and one for each name of the arm's panel.

    Args:
        study: The study.
        spec: The planned run.
        record: Content of its ``run.json``; ``None`` if it was not run.
        directory: Where its curves and tables are.
    """
    status, reason = "missing", "not run"
    record = record or {}
    if record:
        error = record.get("error") or {}
        status, reason = str(record["status"]), str(error.get("message", ""))
        if status == "failed" and error.get("kind") in DIVERGED:
            status = "diverged"
    own = Row(spec.arm, spec.levels, spec.seed, status, reason, record.get("metrics") or {}, record, directory)
    found = [own]
    for name, (arm, panel) in study.names.items():
        if panel is not None and arm == spec.arm:
            metrics = (record.get("arms") or {}).get(panel, {})
            found.append(Row(name, spec.levels, spec.seed, status, reason, metrics, record, directory, panel))
    return found


def read(
    study: Study,
    placed: Iterable[tuple[RunSpec, Path]],
    functions: Function | None = None,
    failures: Mapping[Path, Failure] | None = None,
) -> Table:
    """The table of the runs in the given directories. A damaged record is a row like any other, with its reason.

    Args:
        study: The study.
        placed: Its runs and their directories.
        functions: Finds a function by the name that the config gives, see :func:`functions_of`.
        failures: Why runs failed, as far as it is known: one that was killed could not write it into its record.
    """
    from replicata.run.record import read_record

    found: list[Row] = []
    for spec, directory in placed:
        try:
            record = read_record(directory)
        except UserError as error:
            record = {"status": "damaged", "error": {"message": str(error)}}
        failure = (failures or {}).get(directory)
        if failure is not None and (record or {}).get("status") not in ("finished", "failed", "damaged"):
            reason = {"message": failure.message, "kind": failure.kind}
            record = {**(record or {}), "status": "failed", "error": reason}
        found += rows(study, spec, record, directory)
    return Table(study, found, functions)


class Table:
    """All rows of a study.

    Args:
        study: The study.
        rows: Its rows; the order is kept.
        functions: Finds a function by the name that the config gives, see :func:`functions_of`.
    """

    def __init__(self, study: Study, rows: Iterable[Row], functions: Function | None = None) -> None:
        self.study = study
        self.rows = {(row.arm, row.levels, row.seed): row for row in rows}
        self.functions = functions or functions_of(None)
        self._derived: dict[tuple[str, Cell, int, str], Value] = {}

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def metrics(self) -> set[str]:
        """All metrics that any run has."""
        return {name for row in self for name in row.metrics}

    def seeds(self, arm: str) -> list[int]:
        """The seeds planned for an arm."""
        return sorted({row.seed for row in self if row.arm == arm})

    def select(self, arms: Iterable[str], where: Mapping[str, str]) -> list[Row]:
        """Rows of the arms, in their order, at the given levels of the factors that they have."""
        return [
            row
            for arm in arms
            for row in self
            if row.arm == arm and all(where.get(factor, level) == level for factor, level in row.levels)
        ]

    def value(self, arm: str, levels: Cell, seed: int, metric: str, *, tested: bool = False) -> Value:
        """A metric of one run, measured, derived or declared.

        Args:
            arm: Arm or panel name.
            levels: Its levels.
            seed: The seed.
            metric: The metric.
            tested: Whether it is that of the weights that were tested (:attr:`Row.tested`), as it must be where it
                decides what is taken to the test; else it is the last.
        """
        row = self.rows.get((arm, levels, seed))
        if row is None:
            return Value(None, problem=f"{label(arm, levels, seed)} is not among the runs")
        if metric in self.study.derived:
            key = (arm, levels, seed, metric)
            if key not in self._derived:
                self._derived[key] = self._derive(row, self.study.derived[metric])
            return self._derived[key]
        return self._measured(row, metric, row.tested if tested else row.metrics)

    def view(self, row: Row) -> dict[str, Any]:
        """A row as a config's functions see it."""
        declared = {} if row.status == "finished" else dict(self.study.missing)
        return {
            "arm": row.arm,
            "levels": dict(row.levels),
            "seed": row.seed,
            "metrics": {**declared, **row.metrics},
            "curves": row.curves,
            "tables": row.tables,
        }

    def problem(self, row: Row) -> str:
        """Why a row as a whole has nothing to say; empty if it finished, or diverged where values are declared."""
        if row.status == "finished" or (row.status == "diverged" and self.study.missing):
            return ""
        return _unfinished(row)

    def _measured(self, row: Row, metric: str, metrics: Mapping[str, float]) -> Value:
        value = metrics.get(metric)
        if row.status == "finished" and value is not None and math.isfinite(value):
            return Value(float(value))
        if row.status not in ("finished", "diverged"):
            return Value(None, problem=_unfinished(row))
        known = {name for other in self for name in other.metrics}
        if row.status == "finished" and value is None and metric not in known:
            return Value(
                None, problem=f"no run has a metric {metric!r}; {nearest(metric, known | set(self.study.derived))}"
            )
        state = "diverged" if row.status == "diverged" else f"has no {'finite ' if value is not None else ''}{metric}"
        return self._declared(row, metric, state, self.study.missing.get(metric))

    def _declared(self, row: Row, metric: str, state: str, value: float | None) -> Value:
        if value is not None:
            return Value(value, note=f"{row.label} {state}: counted as {metric} = {value:g}")
        return Value(None, problem=f"{row.label} {state}, and study.missing declares no value for {metric}")

    def _derive(self, row: Row, derived: Derived) -> Value:
        missing = self.study.missing.get(derived.name) if derived.missing is None else derived.missing
        if row.status == "diverged":
            return self._declared(row, derived.name, "diverged", missing)
        if row.status != "finished":
            return Value(None, problem=_unfinished(row))
        if derived.function is None:
            value = reduce(row.curves.get(derived.curve or "", []), derived)
        else:
            others = []
            for arm in derived.arms:
                other = self.rows.get((arm, row.levels, row.seed)) or self.rows.get((arm, (), row.seed))
                if other is None or self.problem(other):
                    problem = (
                        self.problem(other) if other else f"{label(arm, row.levels, row.seed)} is not among the runs"
                    )
                    return Value(None, problem=f"{derived.name} of {row.label}: {problem}")
                others.append(self.view(other))
            try:
                value = float(self.functions(derived.function)(self.view(row), *others))
            except UserError:
                raise
            except Exception as error:
                message = f"{derived.function}() raised {type(error).__name__}: {error}"
                return Value(None, problem=f"{derived.name} of {row.label}: {message}")
        if math.isfinite(value):
            return Value(value)
        return self._declared(row, derived.name, f"has no {derived.name}", missing)


def _unfinished(row: Row) -> str:
    said = {"missing": "was not run", "running": "is not finished", "interrupted": "was interrupted"}
    return f"{row.label} {said.get(row.status, row.status)}{f': {row.reason}' if row.status not in said else ''}"


def reduce(curve: Sequence[Point], derived: Derived) -> float:
    """A curve as one number; NaN for an empty one, and for a target that is never reached."""
    values = [value for _, _, value in curve]
    if not values:
        return math.nan
    if derived.reduce == "first":
        assert derived.target is not None
        return next((float(epoch) for epoch, _, value in curve if derived.target.contains(value)), math.nan)
    if derived.reduce == "mean":
        return sum(values) / len(values)
    if derived.reduce == "last":
        return values[-1]
    return max(values) if derived.reduce == "max" else min(values)


def read_curves(path: Path) -> dict[str, list[Point]]:
    """The columns of a run's ``metrics.csv``; empty where there is no such file."""
    curves: dict[str, list[Point]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            names = next(reader, [])
            places = {name: at for at, name in enumerate(names)}
            for line in reader:
                epoch = int(float(line[places["epoch"]] or 0)) + 1
                step = int(float(line[places["step"]] or 0))
                for name, at in places.items():
                    if name not in ("epoch", "step") and line[at] != "":
                        curves.setdefault(name, []).append((epoch, step, float(line[at])))
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(f"{path} cannot be read ({error}); move the run's directory away to run it again") from None
    return curves


class _Tables(Mapping[str, list[dict[str, Any]]]):
    """Tables of a run, read one by one."""

    def __init__(self, directory: Path | None) -> None:
        self._paths = (
            {path.stem: path for path in sorted((directory / "tables").glob("*.parquet"))} if directory else {}
        )
        self._read: dict[str, list[dict[str, Any]]] = {}

    def __getitem__(self, name: str) -> list[dict[str, Any]]:
        if name not in self._read:
            import pyarrow.parquet as pq

            self._read[name] = pq.read_table(self._paths[name]).to_pylist()
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def functions_of(module: str | None, allow: Iterable[str] = ()) -> Function:
    """Finds the functions that a study names: in the paper's module, or by their full dotted name.

    Args:
        module: Where bare names are looked up: the module of the experiment's ``method._target_``.
        allow: Further packages that may be imported from, as the ``allow`` setting of a run.
    """

    def find(name: str) -> Function:
        from replicata.run.instantiate import locate

        if "." not in name and module is None:
            raise UserError(
                f"study: function {name!r} needs its full dotted name, the experiment's method has no module"
            )
        try:
            found = locate(name if "." in name else f"{module}.{name}", "study", allow)
        except UserError as error:
            raise UserError(str(error).replace("._target_", ": function", 1)) from None
        return found

    return find
