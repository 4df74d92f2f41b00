"""A study in figures: its verdicts, its arms with means and costs, what is missing, and how to repeat it.

    summary = summarise(name, dirs, outputs, results)      # None for a study that nobody has run
    summary.verdicts, summary.arms, summary.problems

Read from the records that the study's index names; where there are none, from the committed results. Nothing is
composed, and no method is imported but for derived columns that name a function of the paper's file.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from replicata.errors import UserError, nearest
from replicata.run import compose as composing
from replicata.study import statistics, verdicts
from replicata.study.claims import Verdict, evaluate
from replicata.study.index import FILE, Entry, Index
from replicata.study.parse import parse
from replicata.study.plan import Cell, metrics_of, needed_arms, only_decides
from replicata.study.schema import Figure, Study
from replicata.study.statistics import Estimate
from replicata.study.table import Function, Row, Table, functions_of, read

COSTS = ("seconds", "stage_seconds", "parameters", "peak_memory_mb")


@dataclass(frozen=True)
class ArmSummary:
    """One arm at one level of each of its factors.

    Attributes:
        arm: Arm or panel name.
        done: Seeds with a result.
        planned: Seeds that the study has.
        metrics: What claims read of it: means over seeds with Student's 95 % interval.
        costs: Means over the seeds: seconds, parameters, memory, and every ``cost/`` metric.
        command: What repeats its run with the first seed; empty for a panel name.
    """

    arm: str
    levels: Cell
    done: int
    planned: int
    metrics: Mapping[str, Estimate]
    costs: Mapping[str, float]
    command: str


@dataclass(frozen=True)
class StudySummary:
    """All that a report or a page says about a study.

    Attributes:
        paper: The experiment's ``paper``: title, venue, url, code.
        source: Where this was read: the folder of records or the results file.
        runs: Number of distinct runs by state: ``finished``, ``stale``, ``failed``, ``missing`` ...
        seconds: All computing together.
        hardware: Kinds of machines that the runs were on.
        ended: When the last run ended.
        unclaimed: Claims that are not decided, because arms that they compare were not planned.
        figures: The declared figures and their files, where they were drawn.
        problems: Runs without a result, and why.
        commands: What repeats the study.
        committed: Verdicts of the results file, where it says otherwise.
    """

    name: str
    paper: Mapping[str, Any]
    study: Study
    source: str
    verdicts: Sequence[Verdict]
    arms: Sequence[ArmSummary]
    runs: Mapping[str, int]
    seconds: float
    hardware: Sequence[str]
    ended: str
    reconstructed: bool
    unclaimed: Sequence[str] = ()
    figures: Sequence[tuple[Figure, Path]] = ()
    problems: Sequence[str] = ()
    commands: Sequence[str] = ()
    committed: Mapping[str, str] = field(default_factory=dict)


def summarise(
    name: str, dirs: Sequence[Path], outputs: Path, results: Path, functions: Function | None = None
) -> StudySummary | None:
    """A study as its records or its committed results have it.

    Args:
        name: The experiment.
        dirs: Folders of config groups.
        outputs: Folder of all runs.
        results: The committed results file, which may not exist.
        functions: Finds the functions that derived columns and tests name; those of the paper's file if not given.

    Raises:
        UserError: if the experiment does not exist or has no study, or what was read is damaged.
    """
    said = composing.described(name, dirs)
    if not said:
        known = [known for known, _ in composing.experiments(dirs)]
        raise UserError(f"there is no experiment {name!r}; {nearest(name, known)}")
    study = parse(said.get("study"), name)
    paper = said.get("paper") or {}
    index = Index.read(outputs / name / FILE)
    committed = verdicts.read(results) if results.is_file() else None
    if index is not None:
        return _of_records(study, paper, index, outputs, committed, functions=functions)
    return _of_results(study, paper, committed, results) if committed is not None else None


# From records -------------------------------------------------------------------------------


def _of_records(
    study: Study,
    paper: Mapping[str, Any],
    index: Index,
    outputs: Path,
    committed: Mapping[str, Any] | None,
    *,
    functions: Function | None = None,
) -> StudySummary:
    entries = [entry for entry in index.entries if _is_planned(study, entry)]
    table = read(study, [(entry.spec, entry.directory) for entry in entries], functions or _functions(entries))
    code = {entry.directory: entry.code for entry in entries}
    planned = {entry.arm for entry in entries}
    decided = [claim.id for claim in study.claims if needed_arms(study, [claim]) <= planned]
    found = evaluate(study, table, claims=decided)
    distinct = {row.directory: row for row in table if row.directory is not None}
    records = [row.record for row in distinct.values() if row.record]
    states = [_state(row, code[directory]) for directory, row in distinct.items()]
    before = {verdict.id: verdict.verdict for verdict in verdicts.restore(committed)} if committed else {}
    folder = outputs / study.name
    return StudySummary(
        name=study.name,
        paper=paper,
        study=study,
        source=str(folder),
        verdicts=found,
        arms=_arms(study, table, index.overrides),
        runs={state: states.count(state) for state in dict.fromkeys(sorted(states, key=_ORDER.index))},
        seconds=sum(float(record.get("seconds") or 0) for record in records),
        hardware=sorted({verdicts.hardware_class(r["hardware"]) for r in records if r.get("hardware")}),
        ended=max((str(record.get("ended") or "") for record in records), default=""),
        reconstructed=bool(paper.get("reconstructed")),
        unclaimed=[
            claim.id for claim in study.claims if claim.id not in decided and claim.scale in (None, study.scale)
        ],
        figures=[(f, path) for f in study.figures if (path := folder / "figures" / f"{f.id}.png").is_file()],
        problems=[f"{row.label}: {row.reason or row.status}" for row in distinct.values() if row.status in _BROKEN],
        commands=_commands(study, entries, index.overrides),
        committed={v.id: before[v.id] for v in found if v.id in before and before[v.id] != v.verdict},
    )


_ORDER = ["finished", "stale", "running", "interrupted", "failed", "diverged", "damaged", "missing"]
_BROKEN = ("failed", "diverged", "damaged")


def _is_planned(study: Study, entry: Entry) -> bool:
    """Whether the study still has what the index names."""
    return entry.arm in study.arms and entry.levels in study.arms[entry.arm].cells()


def _state(row: Row, code: str) -> str:
    return "stale" if row.status == "finished" and row.record.get("code") != code else row.status


def _functions(entries: Sequence[Entry]) -> Function:
    """Finds the functions of derived columns in the paper's file, which the config of any run names."""

    @cache
    def module() -> tuple[str | None, tuple[str, ...]]:
        for entry in entries:
            config = entry.directory / "config.yaml"
            if config.is_file():
                content = composing.read(config)
                target = str((content.get("method") or {}).get("_target_", ""))
                return target.rpartition(".")[0] or None, tuple(content.get("allow") or ())
        return None, ()

    def find(name: str) -> Any:
        return functions_of(*module())(name)

    return find


def _arms(study: Study, table: Table, extra: Sequence[str]) -> list[ArmSummary]:
    claimed = claimed_metrics(study)
    by_arm: dict[tuple[str, Cell], list[Row]] = {}
    for row in table:
        by_arm.setdefault((row.arm, row.levels), []).append(row)
    found = []
    for (name, levels), rows in by_arm.items():
        metrics = {}
        for metric in claimed:
            tested = only_decides(study, metric)
            values = [table.value(name, levels, row.seed, metric, tested=tested).value for row in rows]
            there = [value for value in values if value is not None]
            if there:
                metrics[metric] = mean(there)
        done = [row for row in rows if row.status == "finished"]
        own = study.arms.get(name)
        found.append(
            ArmSummary(
                arm=name,
                levels=levels,
                done=len(done),
                planned=len(rows),
                metrics=metrics,
                costs=_costs(done),
                command=_run_command(study, name, levels, extra, rows[0].seed) if own else "",
            )
        )
    return found


def mean(values: Sequence[float]) -> Estimate:
    """The mean of one value per seed with Student's interval, as figures have it; none below three values."""
    import numpy as np

    center = sum(values) / len(values)
    if len(values) < statistics.FEWEST_VALUES:
        return statistics.undecided(center, len(values), "too few values")
    low, high = statistics.student(np.asarray(values, dtype=float))
    return Estimate(center, float(low), float(high), len(values), "t")


def claimed_metrics(study: Study) -> list[str]:
    """The metrics that claims read, in their order."""
    tests = [test for claim in study.claims for test in (*claim.tests, *claim.given)]
    return list(dict.fromkeys(metric for test in tests for metric in metrics_of(study, test)))


def _costs(rows: Sequence[Row]) -> dict[str, float]:
    """Means of what the runs cost; a panel's variants have only the ``cost/`` metrics that they report themselves."""
    costs: dict[str, list[float]] = {}
    for row in rows:
        record = row.record if row.panel is None else {}
        said = {
            "seconds": record.get("seconds"),
            "stage_seconds": sum(float(stage.get("seconds") or 0) for stage in (record.get("stages") or {}).values()),
            "parameters": record.get("parameters"),
            "peak_memory_mb": max((record.get("peak_memory_mb") or {}).values(), default=None),
            **{name: value for name, value in row.metrics.items() if name.startswith("cost/")},
        }
        for name, value in said.items():
            if value:
                costs.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in costs.items()}


def _run_command(study: Study, arm: str, levels: Cell, extra: Sequence[str], seed: int) -> str:
    by_level = [word for factor, level in levels for word in study.factors[factor].levels[level]]
    words = [f"experiment={study.name}", *by_level, *study.arms[arm].overrides, *extra, f"seed={seed}"]
    return f"replicata run {shlex.join(words)}"


def _commands(study: Study, entries: Sequence[Entry], extra: Sequence[str]) -> list[str]:
    """The study command that plans the same runs."""
    words = [study.name]
    arms = list(dict.fromkeys(entry.arm for entry in entries))
    if set(arms) != set(study.arms):
        words += ["--arms", ",".join(arms)]
    seeds = {entry.seed for entry in entries}
    if seeds != {seed for arm in arms for seed in study.arms[arm].seeds} and seeds == set(range(len(seeds))):
        words += ["--seeds", str(len(seeds))]
    return [f"replicata study {shlex.join([*words, *extra])}"]


# From committed results ---------------------------------------------------------------------


def _of_results(study: Study, paper: Mapping[str, Any], results: Mapping[str, Any], path: Path) -> StudySummary:
    arms, unfinished, finished = [], [], 0
    for name, content in results["arms"].items():
        for run in content["runs"]:
            levels = tuple((run.get("levels") or {}).items())
            gone = run.get("unfinished") or {}
            own = name in study.arms
            finished += (len(run["seeds"]) - len(gone)) * own
            unfinished += [f"{name} {' '.join(map('='.join, levels))} seed {seed}: {why}" for seed, why in gone.items()]
            arms.append(
                ArmSummary(
                    arm=name,
                    levels=levels,
                    done=len(run["seeds"]) - len(gone),
                    planned=len(run["seeds"]),
                    metrics={metric: mean(_there(values)) for metric, values in run["metrics"].items()},
                    costs={},
                    command=_run_command(study, name, levels, results["overrides"], run["seeds"][0])
                    if own and levels in study.arms[name].cells()
                    else "",
                )
            )
    found = verdicts.restore(results)
    known = {verdict.id for verdict in found}
    return StudySummary(
        name=study.name,
        paper=paper,
        study=study,
        source=str(path),
        verdicts=found,
        arms=arms,
        runs={"finished": finished, **({"failed": len(unfinished)} if unfinished else {})},
        seconds=float(results["seconds"]),
        hardware=results["hardware"],
        ended=results["ended"],
        reconstructed=bool(results["reconstructed"]),
        unclaimed=[claim.id for claim in study.claims if claim.id not in known],
        problems=unfinished,
        commands=[f"replicata study {shlex.join([study.name, *results['overrides']])}"],
    )


def _there(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
