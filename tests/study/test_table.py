"""The table of runs: rows, panels, missing values, derived columns, files."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from replicata.errors import UserError
from replicata.run.record import write_tables
from replicata.study import table as tables
from replicata.study.plan import expand
from replicata.study.schema import Derived, Region, Study
from replicata.study.table import Table, Value, functions_of, read, read_curves, reduce

Make = Callable[..., Any]
FAILED = {"status": "failed", "error": {"message": "CUDA out of memory", "kind": "killed"}}
DIVERGED = {"status": "failed", "error": {"message": "train/loss is not finite at batch 3", "kind": "diverged"}}


def test_a_value_is_the_runs_metric(study: Make, table: Make) -> None:
    made = table(study(arms=["a", "b"], seeds=2), {"a": {"m": [0.1, 0.2]}, "b": {"m": [0.3, 0.4]}})
    assert made.value("b", (), 1, "m") == Value(0.4)
    assert made.seeds("a") == [0, 1]
    assert len(made) == 4
    assert [row.arm for row in made.select(["b", "a"], {})] == ["b", "b", "a", "a"]


def test_panels_are_rows_of_their_own(study: Make, table: Make) -> None:
    made = table(study(arms={"net": {"panel": ["half"]}}, seeds=2), {"net": {"m": [0.9, 0.8], "half:m": [0.7, 0.6]}})
    assert [row.label for row in made] == ["net seed 0", "half seed 0", "net seed 1", "half seed 1"]
    assert made.value("half", (), 1, "m") == Value(0.6)


def test_a_panel_that_its_run_did_not_report_has_a_problem(study: Make, table: Make) -> None:
    made = table(study(arms={"net": {"panel": ["half"]}}, seeds=1), {"net": {"m": [0.9]}})
    assert made.value("half", (), 0, "m").problem == "half seed 0 has no m, and study.missing declares no value for m"


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (FAILED, "a seed 0 failed: CUDA out of memory"),
        ({"status": "running"}, "a seed 0 is not finished"),
        ({"status": "interrupted", "error": {"message": "interrupted"}}, "a seed 0 was interrupted"),
        ({}, "a seed 0 was not run"),
    ],
)
def test_a_declared_value_stands_for_divergence_only(
    study: Make, table: Make, record: Mapping[str, Any], problem: str
) -> None:
    made = table(study(arms=["a"], seeds=1, missing={"m": 0.1}), {"a": {"m": [record]}})
    assert made.value("a", (), 0, "m") == Value(None, problem=problem)


def test_a_run_that_diverged_counts_as_declared(study: Make, table: Make) -> None:
    declared = table(study(arms=["a"], seeds=1, missing={"m": 0.1}), {"a": {"m": [DIVERGED]}})
    assert declared.value("a", (), 0, "m") == Value(0.1, note="a seed 0 diverged: counted as m = 0.1")
    silent = table(study(arms=["a"], seeds=1, missing={"other": 0.1}), {"a": {"m": [DIVERGED]}})
    assert silent.value("a", (), 0, "m").problem == "a seed 0 diverged, and study.missing declares no value for m"


def test_a_metric_that_is_not_finite_or_not_there_counts_as_declared(study: Make, table: Make) -> None:
    values = {"a": {"m": [math.nan, None, 0.5]}}
    declared = table(study(arms=["a"], seeds=3, missing={"m": 7}), values)
    assert [declared.value("a", (), seed, "m").value for seed in range(3)] == [7, 7, 0.5]
    silent = table(study(arms=["a"], seeds=3), values)
    assert silent.value("a", (), 0, "m").problem.startswith("a seed 0 has no finite m")


def test_a_metric_that_no_run_has_is_a_mistake_even_where_a_value_is_declared(study: Make, table: Make) -> None:
    made = table(study(arms=["a"], seeds=1, missing={"test/ac": 0.1}), {"a": {"test/acc": [0.9]}})
    assert made.value("a", (), 0, "test/ac").problem == "no run has a metric 'test/ac'; did you mean 'test/acc'?"


def test_a_run_that_was_not_planned_has_a_problem(study: Make, table: Make) -> None:
    made = table(study(arms=["a"], seeds=1), {"a": {"m": [1.0]}})
    assert made.value("a", (), 5, "m").problem == "a seed 5 is not among the runs"


# Derived columns ----------------------------------------------------------------------------

CURVE = [(1, 10, 0.2), (2, 20, 0.9), (3, 30, 0.7)]


@pytest.mark.parametrize(("how", "value"), [("mean", 0.6), ("max", 0.9), ("min", 0.2), ("last", 0.7)])
def test_a_curve_is_reduced(how: str, value: float) -> None:
    assert reduce(CURVE, Derived("d", curve="c", reduce=how)) == pytest.approx(value)
    assert math.isnan(reduce([], Derived("d", curve="c", reduce=how)))


def test_the_first_epoch_at_a_target() -> None:
    def at(boundary: float, above: bool) -> Derived:
        return Derived("d", curve="c", reduce="first", target=Region(boundary, above, closed=True))

    assert reduce(CURVE, at(0.7, above=True)) == 2
    assert reduce(CURVE, at(0.2, above=False)) == 1
    assert math.isnan(reduce(CURVE, at(0.95, above=True)))


def write_run(directory: Path, record: Mapping[str, Any], csv: str = "") -> Path:
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps({"schema": 1, "status": "finished", **record}))
    if csv:
        (directory / "metrics.csv").write_text(csv)
    return directory


def test_curves_come_from_the_runs_files(study: Make, tmp_path: Path) -> None:
    made = study(
        arms=["a"],
        seeds=2,
        derived={
            "m_mean": {"curve": "val/m", "reduce": "mean"},
            "reached": {"curve": "val/m", "reduce": "first", "at_least": 0.5, "missing": 3},
            "never": {"curve": "val/other", "reduce": "first", "at_least": 0.5},
        },
    )
    csv = "epoch,step,train/loss,val/m\n0,9,1.0,0.2\n1,19,,\n2,29,0.8,0.4\n"
    placed = [(spec, write_run(tmp_path / str(spec.seed), {"metrics": {"m": 1.0}}, csv)) for spec in expand(made)]
    table = read(made, placed)
    assert table.value("a", (), 0, "m_mean").value == pytest.approx(0.3)
    assert table.value("a", (), 0, "reached") == Value(3.0, "a seed 0 has no reached: counted as reached = 3")
    assert "study.missing declares no value for never" in table.value("a", (), 0, "never").problem


def test_a_record_that_is_damaged_or_missing_is_a_row_with_its_reason(study: Make, tmp_path: Path) -> None:
    made = study(arms=["a"], seeds=2)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "run.json").write_text("{")
    table = read(made, [(spec, tmp_path / str(spec.seed)) for spec in expand(made)])
    assert [row.status for row in table] == ["damaged", "missing"]
    assert "run.json cannot be read" in table.value("a", (), 0, "m").problem
    assert table.value("a", (), 1, "m").problem == "a seed 1 was not run"


def test_a_damaged_curve_is_refused_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_curves(path) == {}
    path.write_text("epoch,step,m\n0,1,many\n")
    with pytest.raises(UserError, match=r"metrics.csv cannot be read"):
        read_curves(path)


def test_tables_are_read_when_asked_for(study: Make, tmp_path: Path) -> None:
    made = study(arms=["a"], seeds=1)
    directory = write_run(tmp_path / "0", {"metrics": {}})
    write_tables(directory, {"hops": [{"hop": 0, "smv": 0.5}], "other": [{"x": 1}]})
    (row,) = read(made, [(spec, directory) for spec in expand(made)])
    assert sorted(row.tables) == ["hops", "other"]
    assert row.tables["hops"] == [{"hop": 0, "smv": 0.5}]


# Functions of the paper's file --------------------------------------------------------------


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module as a paper's file would be."""
    module = types.ModuleType("replicata_toy_paper")

    def drop(run: Mapping[str, Any], clean: Mapping[str, Any]) -> float:
        return clean["metrics"]["m"] - run["metrics"]["m"]

    def level(run: Mapping[str, Any]) -> float:
        return float(run["levels"]["n"])

    def broken(run: Mapping[str, Any]) -> float:
        return run["metrics"]["nothing"]

    def never(run: Mapping[str, Any]) -> float:
        return math.nan

    for function in (drop, level, broken, never):
        function.__module__ = module.__name__
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def test_a_function_sees_its_run_and_those_of_other_arms(study: Make, table: Make, paper: str) -> None:
    made = study(
        factors={"n": {"10": [], "20": []}},
        arms=["clean", "noisy"],
        seeds=1,
        derived={
            "drop": {"function": "drop", "from": ["clean"]},
            "level": {"function": f"{paper}.level"},
            "broken": {"function": "broken"},
            "never": {"function": "never", "missing": 21},
        },
    )
    values = {("clean", "20"): {"m": [0.9]}, ("noisy", "20"): {"m": [0.7]}, ("noisy", "10"): {"m": [0.1]}}
    full = table(made, values, functions_of(paper, [paper]))
    at20, at10 = (("n", "20"),), (("n", "10"),)
    assert full.value("noisy", at20, 0, "drop").value == pytest.approx(0.2)
    assert full.value("noisy", at20, 0, "level").value == 20
    assert full.value("noisy", at20, 0, "never").value == 21
    assert full.value("noisy", at20, 0, "broken").problem.endswith("broken() raised KeyError: 'nothing'")
    assert (
        full.value("noisy", at10, 0, "drop").problem
        == "drop of noisy n=10 seed 0: clean n=10 seed 0 is not among the runs"
    )


def test_a_derived_column_of_a_run_that_diverged_is_declared_and_not_computed(
    study: Make, table: Make, paper: str
) -> None:
    made = study(arms=["a"], seeds=2, derived={"broken": {"function": "broken", "missing": 5}})
    full = table(made, {"a": {"m": [DIVERGED, FAILED]}}, functions_of(paper, [paper]))
    assert full.value("a", (), 0, "broken") == Value(5.0, "a seed 0 diverged: counted as broken = 5")
    assert full.value("a", (), 1, "broken").problem == "a seed 1 failed: CUDA out of memory"


def test_functions_come_from_allowed_packages_only(paper: str) -> None:
    with pytest.raises(UserError, match=r"study: function: os.system.* is not from an allowed package"):
        functions_of(None)("os.system")
    with pytest.raises(UserError, match="has no 'drp'; did you mean 'drop'"):
        functions_of(paper, [paper])("drp")
    with pytest.raises(UserError, match="'drop' needs its full dotted name"):
        functions_of(None)("drop")


def test_nothing_is_computed_twice(study: Make, table: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    made: Study = study(arms=["a"], seeds=1, derived={"d": {"curve": "c", "reduce": "mean", "missing": 0}})
    full: Table = table(made, {"a": {"m": [1.0]}})
    monkeypatch.setattr(tables, "reduce", lambda curve, derived: calls.append(derived.name) or 1.0)
    assert [full.value("a", (), 0, "d").value for _ in range(3)] == [1.0] * 3
    assert calls == ["d"]


def test_curves_are_read_when_asked_for_and_once(study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a large study costs is measured in ``scripts/benchmark_records.py``."""
    opened: list[Path] = []
    monkeypatch.setattr(tables, "read_curves", lambda path: opened.append(path) or read_curves(path))
    derived = {name: {"curve": "val/m", "reduce": name} for name in ("mean", "max")}
    made = study(arms=["a", "b"], seeds=3, derived=derived)
    csv = "epoch,step,val/m\n" + "".join(f"{epoch},{epoch},0.{epoch}\n" for epoch in range(5))
    record = {"metrics": {"m": 0.5}}
    placed = [(spec, write_run(tmp_path / spec.arm / str(spec.seed), record, csv)) for spec in expand(made)]
    table = read(made, placed)
    assert [table.value(row.arm, row.levels, row.seed, "m").value for row in table] == [0.5] * 6
    assert opened == []
    for row in table:
        values = [table.value(row.arm, row.levels, row.seed, name).value for name in derived]
        assert values == pytest.approx([0.2, 0.4])
    assert opened == [directory / "metrics.csv" for _, directory in placed]
