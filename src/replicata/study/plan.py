"""From a study to its runs.

    specs = expand(study, claims=["beats_gcn"], seeds=3)      # in the order in which they should run
    specs[0].overrides    # ["experiment=graph/dagnn", "model=graph/gcn", "seed=0"], for `replicata run`
    specs[0].label        # "gcn seed 0"

A spec is a label on a run. Two specs whose configs come out the same (an arm that equals another at some level)
have the same identity and so the same directory: whoever launches them finds the second one done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from replicata.errors import UserError, nearest
from replicata.study.schema import Arm, Claim, Study, Test

Cell = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RunSpec:
    """One arm, at one level of each of its factors, with one seed."""

    arm: str
    levels: Cell
    seed: int
    overrides: tuple[str, ...]

    @property
    def label(self) -> str:
        return label(self.arm, self.levels, self.seed)

    @property
    def tag(self) -> str:
        """What loggers call the runs that differ from it by their seed only."""
        return "-".join([self.arm, *(level for _, level in self.levels)])


def label(arm: str, levels: Cell, seed: int) -> str:
    """``dagnn data=cora seed 3``."""
    return " ".join([arm, *(f"{factor}={level}" for factor, level in levels), f"seed {seed}"])


def expand(
    study: Study,
    extra: Sequence[str] = (),
    *,
    arms: Iterable[str] | None = None,
    claims: Iterable[str] | None = None,
    seeds: int | Sequence[int] | None = None,
) -> list[RunSpec]:
    """The runs of a study, seed by seed, so that a study cut short has whole comparisons.

    Within a seed they follow the order of arms in the config, and of levels within an arm. Overrides come as
    experiment, levels, arm, ``extra``, seed: Hydra lets the later one win.

    Args:
        study: The study.
        extra: Overrides for all runs, as from the command line or the experiment's ``smoke:``.
        arms: Only these arms; panel names and groups mean the arms behind them.
        claims: Only what these claims and their controls need.
        seeds: Instead of the study's: so many, or these. An arm that says its own number of seeds in the
            config never gets more than that.

    Raises:
        UserError: for an arm or a claim that the study does not have.
    """
    chosen = list(study.arms.values())
    if arms is not None:
        named = {reporting.name for name in arms for reporting in behind(study, name)}
        chosen = [arm for arm in chosen if arm.name in named]
    if claims is not None:
        needed = needed_arms(study, select_claims(study, claims))
        chosen = [arm for arm in chosen if arm.name in needed]
    planned = [(arm, set(_seeds(arm, seeds))) for arm in chosen]
    order = list(dict.fromkeys(seed for arm, _ in planned for seed in _seeds(arm, seeds)))
    return [
        RunSpec(arm.name, cell, seed, (*overrides_of(study, arm, cell), *extra, f"seed={seed}"))
        for seed in sorted(order)
        for arm, own in planned
        if seed in own
        for cell in arm.cells()
    ]


def select_claims(study: Study, ids: Iterable[str]) -> list[Claim]:
    """The claims with these ids and the controls over them, in the study's order."""
    wanted = set(ids)
    known = [claim.id for claim in study.claims]
    for unknown in sorted(wanted - set(known)):
        raise UserError(f"{study.name} has no claim {unknown!r}; {nearest(unknown, known)}")
    return [claim for claim in study.claims if claim.id in wanted or wanted & set(claim.controls)]


def needed_arms(study: Study, claims: Iterable[Claim]) -> set[str]:
    """Names of the arms whose runs the claims are decided on."""
    tests = [test for claim in claims for test in (*claim.tests, *claim.given)]
    return {study.variant(name)[0].name for test in tests for name in _variants(study, test)}


def metrics_of(study: Study, test: Test) -> list[str]:
    """The metrics a test reads, with those that decide the best of its groups."""
    deciding = [study.groups[name].by for name in test.arms if name in study.groups]
    return [metric for metric in (test.metric, test.x, test.y, *deciding) if metric is not None]


def only_decides(study: Study, metric: str) -> bool:
    """Whether a metric tells which arm of a group is the best, and is compared by no test itself."""
    tests = [test for claim in study.claims for test in (*claim.tests, *claim.given)]
    compared = {name for test in tests for name in (test.metric, test.x, test.y)}
    return metric not in compared and metric in {group.by for group in study.groups.values()}


def _variants(study: Study, test: Test) -> list[str]:
    names = study.compared(test)
    for metric in metrics_of(study, test):
        if metric in study.derived:
            names += study.derived[metric].arms
    return names


def behind(study: Study, name: str) -> list[Arm]:
    """The arms that run what a name of an arm, panel or group stands for."""
    reported = {f"{arm}/{panel}": arm for arm, panel in study.names.values() if panel is not None}
    known = {*study.names, *study.groups, *reported}
    if name not in known:
        raise UserError(f"{study.name} has no arm {name!r}; {nearest(name, known)}")
    if name in reported:
        return [study.arms[reported[name]]]
    return [study.variant(member)[0] for member in study.members(name)]


def _seeds(arm: Arm, seeds: int | Sequence[int] | None) -> tuple[int, ...]:
    if seeds is None:
        return arm.seeds
    asked = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    return asked[: len(arm.seeds)] if arm.own_seeds else asked


def overrides_of(study: Study, arm: Arm, cell: Cell) -> tuple[str, ...]:
    """What makes a run of this arm at these levels, without its seed."""
    by_level = [word for factor, level in cell for word in study.factors[factor].levels[level]]
    return (f"experiment={study.name}", *by_level, *arm.overrides)
