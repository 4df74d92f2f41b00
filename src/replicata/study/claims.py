"""Claims decided over a table of runs.

    verdicts = evaluate(study, table)            # one Verdict per claim, in the order of the config
    verdicts[0].verdict                          # "holds", "fails" or "inconclusive"
    verdicts[0].effect, .interval, .n, .reason

One rule decides every test: an effect with a 95 % interval against the region that the claim names. The whole
interval in the region: holds; none of it: fails; else inconclusive. Around the rule:

* ``all`` and ``over: each`` are intersection-union tests: all parts must hold, one that fails is enough to fail. The
  effect shown is that of the part that decides: the first with the worst verdict; of levels, the one with the least
  margin.
* A run without a value makes its claims inconclusive, and is named; effect and interval are then those of the rest.
* A precondition (``given``) that does not hold makes its claim inconclusive, and so does a control that fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from replicata.errors import UserError
from replicata.study import statistics
from replicata.study.plan import select_claims
from replicata.study.schema import Arm, Claim, Region, Study, Test
from replicata.study.statistics import Estimate
from replicata.study.table import Table, Value

WORST_FIRST = ("fails", "inconclusive", "holds")
SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """What became of one test.

    Attributes:
        test: The test in words.
        region: Where the effect should lie, as ``> 0``.
        n: Independent values behind the effect: seeds, as a rule.
        method: How the interval was computed.
        reasons: What the reader must know beside the numbers.
        parts: The tests or levels it is made of.
    """

    test: str
    verdict: str
    effect: float | None
    interval: tuple[float, float] | None
    n: int
    region: str
    method: str
    reasons: tuple[str, ...] = ()
    parts: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim and what the study says about it; the fields of the finding are those of the part that decides."""

    id: str
    statement: str
    verdict: str
    effect: float | None
    interval: tuple[float, float] | None
    n: int
    region: str
    method: str
    reason: str
    paper: Any
    role: str
    strength: str | None
    parts: tuple[Finding, ...]


def evaluate(study: Study, table: Table, *, claims: Iterable[str] | None = None) -> list[Verdict]:
    """Decide the claims of a study; those that are decided at another scale are left out.

    Args:
        study: The study.
        table: Its runs.
        claims: Only these, and the controls over them.

    Raises:
        UserError: for a claim or a function that does not exist.
    """
    chosen = list(study.claims) if claims is None else select_claims(study, claims)
    chosen = [claim for claim in chosen if claim.scale in (None, study.scale)]
    verdicts = {claim.id: _Judge(study, table).claim(claim) for claim in chosen}
    for control in chosen:
        for name in control.controls:
            if name in verdicts:
                verdicts[name] = _controlled(verdicts[name], verdicts[control.id])
    return list(verdicts.values())


def _controlled(verdict: Verdict, control: Verdict) -> Verdict:
    if control.verdict == "holds":
        return verdict
    reason = "; ".join(filter(None, [f"control {control.id} {_is(control.verdict)}", verdict.reason]))
    return replace(verdict, reason=reason, verdict="inconclusive" if control.verdict == "fails" else verdict.verdict)


def _is(verdict: str) -> str:
    return f"is {verdict}" if verdict == "inconclusive" else verdict


class _Judge:
    """Decides claims of a study over a table."""

    def __init__(self, study: Study, table: Table) -> None:
        self.study = study
        self.table = table

    def claim(self, claim: Claim) -> Verdict:
        findings = [self.test(test) for test in claim.tests]
        finding = findings[0] if len(findings) == 1 else _together(findings, "all of these", by_margin=None)
        reasons = list(finding.reasons)
        verdict = finding.verdict
        for test in claim.given:
            precondition = self.test(test)
            if precondition.verdict != "holds":
                verdict = "inconclusive"
                why = "; ".join([f"{precondition.test} {_is(precondition.verdict)}", *precondition.reasons])
                reasons.insert(0, f"its precondition is not met: {why}")
        return Verdict(
            id=claim.id,
            statement=claim.statement,
            verdict=verdict,
            effect=finding.effect,
            interval=finding.interval,
            n=finding.n,
            region=finding.region,
            method=finding.method,
            reason="; ".join(reasons),
            paper=claim.paper,
            role=claim.role,
            strength=claim.strength,
            parts=finding.parts,
        )

    def test(self, test: Test) -> Finding:
        """A test, at each level of the factors that it takes one by one."""
        apart = [factor for factor, how in test.over.items() if how == "each"]
        if not apart:
            return self.at(test, test.where, str(test))
        open_factors = {factor: how for factor, how in test.over.items() if how != "each"}
        found = []
        for levels in product(*self.levels(test, apart)):
            single = replace(test, over=open_factors, where={**test.where, **dict(zip(apart, levels, strict=True))})
            found.append(self.at(single, single.where, str(single)))
        return _together(found, str(test), by_margin=test.region)

    def at(self, test: Test, fixed: Mapping[str, str], words: str) -> Finding:
        """A test with nothing left to take one by one."""
        region = test.region
        notes: list[str] = []
        if test.kind == "statistic":
            estimate, problems = self.statistic(test, fixed)
        elif test.kind == "correlation":
            estimate, notes, problems = self.correlation(test, fixed)
        else:
            columns, notes, problems = self.columns(test, fixed)
            estimate, region = self.estimate(test, columns)
        reasons = [*_few(problems), *notes]
        if estimate.interval is None:
            verdict = "inconclusive"
            reasons += [] if problems else [estimate.why]
        else:
            verdict = region.decide(*estimate.interval)
            if test.kind == "trend" and verdict == "holds":
                wrong = _wrong_steps(test, columns, self.points(test))
                verdict, reasons = ("fails", reasons + wrong) if wrong else (verdict, reasons)
            if problems:
                verdict = "inconclusive"
        return Finding(
            test=words,
            verdict=verdict,
            effect=estimate.effect,
            interval=estimate.interval,
            n=estimate.n,
            region=str(region),
            method=estimate.method,
            reasons=tuple(reasons),
        )

    # Values --------------------------------------------------------------------------------

    def points(self, test: Test) -> list[tuple[str, dict[str, str]]]:
        """What a test compares within a seed: arms, or the levels that a trend follows."""
        if test.along is None:
            return [(name, {}) for name in test.arms]
        levels = self.study.variant(test.arms[0])[0].levels[test.along]
        return [(test.arms[0], {test.along: level}) for level in levels]

    def levels(self, test: Test, factors: Sequence[str]) -> list[tuple[str, ...]]:
        """For each factor the levels at which the test's arms are run."""
        arms = [self._arm(name) for name in self.study.compared(test)]
        return [next(arm.levels[factor] for arm in arms if factor in arm.levels) for factor in factors]

    def columns(self, test: Test, fixed: Mapping[str, str]) -> tuple[list[list[float]], list[str], list[str]]:
        """For each point its values, one per seed (and pooled level or arm), all in the same order; notes; problems."""
        points = self.points(test)
        arms = self.study.compared(test)
        pooled = [factor for factor, how in test.over.items() if how == "pool"]
        group = self.study.groups.get(test.arms[0])
        variants: Sequence[str | None] = group.arms if group is not None and group.reduce == "pool" else (None,)

        columns: list[list[float]] = [[] for _ in points]
        measured = False
        notes: list[str] = []
        problems = [f"{arm} is not among the runs" for arm in dict.fromkeys(arms) if not self.table.seeds(arm)]
        for seed in self._seeds(arms):
            for levels in product(*self.levels(test, pooled)):
                here = {**fixed, **dict(zip(pooled, levels, strict=True))}
                for variant in variants:
                    values = [self.value(variant or name, here | own, seed, str(test.metric)) for name, own in points]
                    notes += [value.note for value in values if value.note]
                    bad = [value.problem for value in values if value.problem]
                    problems += bad
                    if not bad:
                        measured |= any(not value.note for value in values)
                        for column, value in zip(columns, values, strict=True):
                            column.append(value.number)
        if columns[0] and not measured:
            problems.append(f"every {test.metric} is a declared value, none was measured")
        return columns, list(dict.fromkeys(notes)), list(dict.fromkeys(problems))

    def value(self, name: str, fixed: Mapping[str, str], seed: int, metric: str, *, tested: bool = False) -> Value:
        """A metric of an arm or a group in one seed, averaged over the levels that are left open.

        ``tested`` asks for that of the weights that are tested, see :meth:`Table.value`.
        """
        if name not in self.study.groups:
            cells = [cell for cell in self._arm(name).cells() if all(fixed.get(f, level) == level for f, level in cell)]
            return _average([self.table.value(name, cell, seed, metric, tested=tested) for cell in cells])
        group = self.study.groups[name]
        if group.reduce == "mean":
            return _average([self.value(arm, fixed, seed, metric) for arm in group.arms])
        deciding = {arm: self.value(arm, fixed, seed, str(group.by), tested=True) for arm in group.arms}
        problem = next((value.problem for value in deciding.values() if value.problem), "")
        if problem:
            return Value(None, problem=problem)
        scores = {arm: value.number for arm, value in deciding.items()}
        best = (max if group.higher else min)(scores, key=lambda arm: scores[arm])
        return self.value(best, fixed, seed, metric)

    def _arm(self, name: str) -> Arm:
        return self.study.variant(name)[0]

    def _seeds(self, arms: Iterable[str]) -> list[int]:
        """The seeds that all arms are planned for."""
        planned = [set(self.table.seeds(arm)) for arm in arms]
        return sorted(set.intersection(*planned)) if planned else []

    # Estimates -----------------------------------------------------------------------------

    def estimate(self, test: Test, columns: Sequence[Sequence[float]]) -> tuple[Estimate, Region]:
        """The effect of a test, and its region on the scale of that effect."""
        region = test.region
        binary = not test.exact and (test.binary or statistics.is_binary(*columns))
        if not columns[0]:
            return statistics.undecided(None, 0, "no seed has all the values"), region
        if test.kind == "trend":
            return statistics.trend(list(zip(*columns, strict=True)), exact=test.exact), region
        if test.kind == "threshold":
            if binary:
                return statistics.share(columns[0]), region
            return statistics.mean(columns[0], exact=test.exact), region
        if test.kind in ("ratio_at_most", "ratio_at_least"):
            return statistics.ratio(*columns, exact=test.exact), region
        if test.kind in ("greater", "less") and binary and region.boundary == 0:
            return statistics.odds(*columns), replace(region, boundary=1.0)
        return statistics.difference(*columns, exact=test.exact), region

    def correlation(self, test: Test, fixed: Mapping[str, str]) -> tuple[Estimate, list[str], list[str]]:
        """Over the runs of all arms and open levels, within each seed or all together."""
        samples: list[tuple[list[float], list[float]]] = []
        notes: list[str] = []
        problems: list[str] = []
        rows = self.table.select(test.arms, fixed)
        for seed in sorted({row.seed for row in rows}):
            x: list[float] = []
            y: list[float] = []
            for row in rows:
                if row.seed == seed:
                    pair = [self.table.value(row.arm, row.levels, seed, str(metric)) for metric in (test.x, test.y)]
                    notes += [value.note for value in pair if value.note]
                    bad = [value.problem for value in pair if value.problem]
                    problems += bad
                    if not bad:
                        x.append(pair[0].number)
                        y.append(pair[1].number)
            samples.append((x, y))
        if not any(x for x, _ in samples):
            estimate = statistics.undecided(None, 0, "no run has both values")
        elif test.pool:
            flat = [[value for sample in samples for value in sample[side]] for side in (0, 1)]
            estimate = statistics.correlation(flat[0], flat[1], test.method)
        else:
            estimate = statistics.mean_correlation(samples, test.method)
        return estimate, list(dict.fromkeys(notes)), list(dict.fromkeys(problems))

    def statistic(self, test: Test, fixed: Mapping[str, str]) -> tuple[Estimate, list[str]]:
        """A function of the paper's file over the runs: values per seed, one number, or an estimate of its own."""
        function = self.table.functions(str(test.function))
        rows = self.table.select(test.arms, fixed)
        problems = list(dict.fromkeys(filter(None, map(self.table.problem, rows))))
        if problems or not rows:
            return statistics.undecided(None, 0, "none of its arms is among the runs"), problems
        try:
            result = function([self.table.view(row) for row in rows])
            if isinstance(result, Mapping):
                low, high = map(float, result["interval"])
                effect = float(result["effect"])
                if not all(map(math.isfinite, (effect, low, high))):
                    raise ValueError("its effect or interval is not finite")
                return Estimate(effect, low, high, int(result["n"]), f"{test.function}()"), []
            values = [float(value) for value in result] if isinstance(result, Iterable) else [float(result)]
            if not all(map(math.isfinite, values)):
                raise ValueError("a value is not finite")
        except UserError:
            raise
        except Exception as error:
            return statistics.undecided(None, 0, f"{test.function}() raised {type(error).__name__}: {error}"), []
        estimate = statistics.mean(values, exact=test.exact)
        return replace(estimate, method=f"{test.function}(), {estimate.method}"), []


def _average(values: Sequence[Value]) -> Value:
    problem = next((value.problem for value in values if value.problem), "")
    if problem:
        return Value(None, problem=problem)
    notes = "; ".join(dict.fromkeys(value.note for value in values if value.note))
    return Value(sum(value.number for value in values) / len(values), note=notes)


def _together(findings: Sequence[Finding], words: str, by_margin: Region | None) -> Finding:
    """Several tests as one that holds if all hold and fails if one fails."""

    def badness(finding: Finding) -> tuple[int, float]:
        if by_margin is None:
            return WORST_FIRST.index(finding.verdict), 0.0
        return WORST_FIRST.index(finding.verdict), _margin(finding, by_margin)

    worst = min(findings, key=badness)
    reasons = tuple(dict.fromkeys(reason for finding in findings for reason in finding.reasons))
    return replace(worst, test=words, reasons=reasons, parts=tuple(findings))


def _margin(finding: Finding, region: Region) -> float:
    """By how much the near end of the interval clears the boundary."""
    if finding.interval is None:
        return -math.inf
    low, high = finding.interval
    return low - region.boundary if region.above else region.boundary - high


def _wrong_steps(
    test: Test, columns: Sequence[Sequence[float]], points: Sequence[tuple[str, Mapping[str, str]]]
) -> list[str]:
    """Where a claimed trend clearly goes the other way, in words."""
    names = [own.get(test.along, name) if test.along else name for name, own in points]
    rows = list(zip(*columns, strict=True))
    other = "falls" if test.region.above else "rises"
    return [
        f"not monotone: {test.metric} {other} from {names[step]} to {names[step + 1]} ({estimate.effect:+.4g})"
        for step, estimate in statistics.wrong_steps(rows, test.region.above, exact=test.exact)
    ]


def _few(problems: Sequence[str]) -> list[str]:
    """The first few, and how many more there are."""
    if len(problems) <= SHOWN:
        return list(problems)
    return [*problems[:SHOWN], f"and {len(problems) - SHOWN} more like these"]
