"""Tuning: a grid on seeds outside the study's, the same trials for every arm, decided by a validation metric.

    study.tuning                                # the entries of the experiment's study.tuning, read and checked
    trials(study, entry)                        # ordinary runs
    tuned = Tuned(entry, [outcome(study, entry, planned, functions), ...])
    tuned.chosen                                # {"gcn": {"optimizer.lr": 0.01}, ...}
    content(study, [tuned, ...], before)        # of results/<family>/<slug>_tuning.json

What was chosen is typed into the arms as literals: nothing is selected at study time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicata.errors import UserError
from replicata.run.failures import Failure
from replicata.run.record import read_record, write_atomic
from replicata.study.plan import Cell, RunSpec, behind, overrides_of
from replicata.study.schema import Arm, Study, Tuning
from replicata.study.table import DIVERGED, Function, Table, rows

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from replicata.study.run import Place

SCHEMA = 1
WIDTH, DEPTH = 120, 4  # of the file: its lines, and a trial in it


# Trials -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial(RunSpec):
    """A run of an arm at one setting of the grid."""

    values: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        named = [f"{factor}={level}" for factor, level in self.levels]
        return " ".join([self.arm, *named, *words(dict(self.values)), f"seed {self.seed}"])

    @property
    def tag(self) -> str:
        return f"{super().tag}-tuning"


def words(values: Mapping[str, Any]) -> tuple[str, ...]:
    """A setting as Hydra overrides."""
    return tuple(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())


def trials(study: Study, entry: Tuning, extra: Sequence[str] = (), arms: Iterable[str] | None = None) -> list[Trial]:
    """The runs of an entry: seed by seed, by arm, every arm at all settings.

    Args:
        study: The study.
        entry: The entry of its tuning.
        extra: Overrides for all runs, as from the command line.
        arms: Only these; panel names and groups mean the arms behind them.

    Raises:
        UserError: for an arm that the study does not have, and for an override of a key that is tuned.
    """
    for word in extra:
        key = word.lstrip("+~").partition("=")[0]
        if key in entry.grid:
            raise UserError(f"{study.name}: {word!r} sets what study.tuning tries; take it out")
    chosen = [study.arms[name] for name in entry.arms]
    if arms is not None:
        named = {arm.name for name in arms for arm in behind(study, name)}
        chosen = [arm for arm in chosen if arm.name in named]
    return [
        Trial(arm.name, cell(entry, arm), seed, (*base, *words(values), *extra, f"seed={seed}"), tuple(values.items()))
        for seed in entry.seeds
        for arm in chosen
        for base in [overrides_of(study, arm, cell(entry, arm))]
        for values in entry.settings()
    ]


def cell(entry: Tuning, arm: Arm) -> Cell:
    """The levels at which an entry tries an arm."""
    return tuple((factor, entry.where.get(factor, levels[0])) for factor, levels in arm.levels.items())


# Outcomes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a trial; ``value`` is ``None`` if it diverged, failed or has no such metric."""

    trial: Trial
    status: str
    value: float | None
    reason: str
    hash: str
    seconds: float | None


def outcome(
    study: Study,
    entry: Tuning,
    trial: Trial,
    place: Place,
    *,
    problem: Failure | None = None,
    functions: Function | None = None,
) -> Outcome:
    """Read a trial's record.

    The metric is that of the weights that the run tests: with ``test: best`` of the best ones, not of the last. What
    a study's ``missing:`` declares does not count: nothing was measured.

    Args:
        study: The study.
        entry: The entry of its tuning.
        trial: The trial.
        place: Where it is.
        problem: Why it did not finish, as far as its record does not say so.
        functions: Finds the functions of derived columns.
    """
    record = read_record(place.directory) or {}
    row, *_ = rows(study, trial, record, place.directory)
    table = Table(study, [row], functions)
    found = table.value(trial.arm, trial.levels, trial.seed, entry.metric, tested=True)
    measured = found.value is not None and not found.note
    reason = "" if measured else row.reason or found.problem or found.note
    seconds = row.record.get("seconds")
    if problem is not None and row.status not in ("finished", "diverged", "failed"):
        status = "diverged" if problem.kind in DIVERGED else "failed"
        return Outcome(trial, status, None, problem.message, place.hash, seconds)
    return Outcome(trial, row.status, found.value if measured else None, reason, place.hash, seconds)


@dataclass(frozen=True)
class Tuned:
    """An entry with the outcomes of its trials."""

    entry: Tuning
    outcomes: Sequence[Outcome]

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(outcome.trial.arm for outcome in self.outcomes))

    def score(self, arm: str, values: Mapping[str, Any]) -> float | None:
        """Mean over the seeds; ``None``, the worst, unless there is a value for each."""
        found = [out.value for out in self.outcomes if out.trial.arm == arm and dict(out.trial.values) == values]
        measured = [value for value in found if value is not None]
        return sum(measured) / len(measured) if measured and len(measured) == len(found) else None

    def best(self, arm: str) -> dict[str, Any] | None:
        """The best setting of an arm, of equals the first; ``None`` if all of them failed."""
        scored = [(self.score(arm, values), values) for values in self.entry.settings()]
        possible = [(score if self.entry.higher else -score, values) for score, values in scored if score is not None]
        return max(possible, key=lambda pair: pair[0])[1] if possible else None

    @property
    def chosen(self) -> dict[str, dict[str, Any] | None]:
        """The best setting by arm."""
        return {arm: self.best(arm) for arm in self.arms}

    def edges(self, arm: str) -> dict[str, str]:
        """The keys whose best value is the lowest or the highest of the grid: a better one may lie beyond."""
        found = {}
        for key, value in (self.best(arm) or {}).items():
            numbers = [v for v in self.entry.grid[key] if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(numbers) > 1 and value in (min(numbers), max(numbers)):
                found[key] = "lowest" if value == min(numbers) else "highest"
        return found


def differing(
    study: Study,
    entry: Tuning,
    chosen: Mapping[str, Mapping[str, Any] | None],
    compose: Callable[[Sequence[str]], DictConfig],
    extra: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """By arm the keys at which its config has another value than the chosen one, with the value it has.

    Args:
        study: The study.
        entry: The entry of its tuning.
        chosen: By arm what was chosen.
        compose: Override list to config.
        extra: Overrides that all trials had.
    """
    from omegaconf import OmegaConf

    found: dict[str, dict[str, Any]] = {}
    for name, values in chosen.items():
        if values is None:
            continue
        arm = study.arms[name]
        config = compose([*overrides_of(study, arm, cell(entry, arm)), *extra])
        for key, value in values.items():
            now = OmegaConf.select(config, key)
            now = OmegaConf.to_container(now, resolve=True) if OmegaConf.is_config(now) else now
            if now != value:
                found.setdefault(name, {})[key] = now
    return found


# The file -----------------------------------------------------------------------------------


def tuning_path(root: Path, name: str) -> Path:
    """``results/<family>/<slug>_tuning.json`` under the root of a checkout."""
    return root / "results" / f"{name}_tuning.json"


def content(
    study: Study, tuned: Sequence[Tuned], extra: Sequence[str] = (), before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of the file.

    Args:
        study: The study.
        tuned: All entries of its tuning, with the outcomes there are.
        extra: Overrides that all trials had.
        before: What the file holds. Of arms without outcomes the trials are taken over, where the entry and
            ``extra`` are still the same.
    """
    kept = before["entries"] if before and before["overrides"] == list(extra) else []
    return {
        "schema": SCHEMA,
        "experiment": study.name,
        "overrides": list(extra),
        "entries": [_entry(one, kept) for one in tuned],
    }


def _entry(tuned: Tuned, kept: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    entry = tuned.entry
    head = {
        "metric": entry.metric,
        "mode": "max" if entry.higher else "min",
        "seeds": list(entry.seeds),
        "where": dict(entry.where),
        "grid": {key: list(values) for key, values in entry.grid.items()},
    }
    old = next((found for found in kept if all(found[key] == value for key, value in head.items())), None)
    chosen: dict[str, Any] = {}
    lines: list[Any] = []
    for arm in entry.arms:
        if arm in tuned.arms:
            chosen[arm] = tuned.chosen[arm]
            lines += [_trial(out) for out in tuned.outcomes if out.trial.arm == arm]
        elif old is not None and arm in old["chosen"]:
            chosen[arm] = old["chosen"][arm]
            lines += [trial for trial in old["trials"] if trial["arm"] == arm]
    return {**head, "chosen": chosen, "trials": lines}


def _trial(out: Outcome) -> dict[str, Any]:
    found = {
        "arm": out.trial.arm,
        "values": dict(out.trial.values),
        "seed": out.trial.seed,
        "value": None if out.value is None else float(f"{out.value:.6g}"),
        "status": out.status,
        "hash": out.hash,
        "seconds": None if out.seconds is None else round(out.seconds, 1),
    }
    return found | ({"reason": out.reason} if out.reason else {})


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, _text(content) + "\n")


def read_file(path: Path) -> dict[str, Any] | None:
    """What a tuning file holds, ``None`` where there is none.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away and tune again") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UserError(f"{path} is no tuning file of this version; move it away and tune again")
    return found


def _text(value: Any, depth: int = 0) -> str:
    """JSON in which a trial, and whatever else is short enough, stands on one line."""
    flat, indent = json.dumps(value, ensure_ascii=False, allow_nan=False), "  " * depth
    if not isinstance(value, dict | list) or depth == DEPTH or len(indent) + len(flat) <= WIDTH:
        return flat
    named = value.items() if isinstance(value, dict) else (("", item) for item in value)
    lines = [f"{json.dumps(name)}: " * bool(name) + _text(item, depth + 1) for name, item in named]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(f"{indent}  {line}" for line in lines) + f"\n{indent}{closing}"
