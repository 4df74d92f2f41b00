"""Carrying out a study: which runs there are to do, handing them to a launcher, watching them.

    planner = Planner(compose, name, outputs, cache_key)
    planned = planner.plan(specs)                   # identity and directory of every run, and its stages
    failed = carry_out(planned, launch)             # distinct stages first, then the runs; finished ones are reused

It does not know Hydra's launchers: ``launch`` is a function from override lists, and what to call them, to results.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from replicata.errors import UserError
from replicata.run.failures import Failed, Failure
from replicata.run.fingerprint import code_fingerprint
from replicata.run.identity import code_targets, identify, stage_config
from replicata.run.lock import is_held
from replicata.run.record import read_record, write_atomic
from replicata.study.plan import RunSpec
from replicata.study.table import DIVERGED

State = Literal["finished", "stale", "failed", "interrupted", "busy", "missing"]
Launch = Callable[[Sequence[Sequence[str]], Sequence[str]], Sequence[Any]]


@dataclass(frozen=True)
class Place:
    """Where a run or a stage of it lands.

    Attributes:
        directory: Its run directory.
        hash: Hash of its config.
        code: Fingerprint of the code it would run now.
        overrides: What to run to get it.
        stage: The stage that it is, ``parent.grandparent``; empty for a run of the study.
    """

    directory: Path
    hash: str
    code: str
    overrides: tuple[str, ...]
    stage: str = ""


@dataclass(frozen=True)
class Planned:
    """A run of a study with its place, and the places of its stages, those that others need first."""

    spec: RunSpec
    place: Place
    stages: tuple[tuple[int, Place], ...] = ()


def state(place: Place) -> tuple[State, Mapping[str, Any] | None]:
    """How a run stands, and its record."""
    record = read_record(place.directory)
    if record is None:
        return ("busy" if is_held(place.directory) else "missing"), None
    if record["status"] == "finished":
        return ("finished" if record["code"] == place.code else "stale"), record
    if is_held(place.directory):
        return "busy", record
    return ("failed" if record["status"] == "failed" else "interrupted"), record


# Planning -----------------------------------------------------------------------------------


@dataclass
class Planner:
    """Finds the directories of runs.

    Composing a config takes a tenth of a second, so what was found is kept in ``<outputs>/<name>/.plan.json``
    and found there again as long as no config file has changed.

    Args:
        compose: Override list to config.
        name: The experiment.
        outputs: Folder of all runs.
        key: What the configs depend on beside the overrides (contents of the config folders).
    """

    compose: Callable[[Sequence[str]], DictConfig]
    name: str
    outputs: Path
    key: str
    _found: dict[str, Any] = field(default_factory=dict)
    _codes: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.outputs / self.name / ".plan.json"

    def plan(self, specs: Sequence[RunSpec]) -> list[Planned]:
        """Every spec with its place and its stages."""
        self._found = self._load()
        before = len(self._found)
        planned = []
        for spec in specs:
            seedless = [word for word in spec.overrides if not word.startswith("seed=")]
            key = " ".join(seedless)
            if key not in self._found:
                self._found[key] = [*self._describe(self.compose(seedless), "", None)]
            *stages, own = self._found[key]
            places = tuple((entry["depth"], self._place(spec, entry)) for entry in stages)
            planned.append(Planned(spec, self._place(spec, own), tuple(sorted(places, key=lambda pair: -pair[0]))))
        if len(self._found) > before:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps({"key": self.key, "found": self._found}))
        return planned

    def _load(self) -> dict[str, Any]:
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept["found"] if kept.get("key") == self.key else {}

    def _describe(self, config: DictConfig, only: str, seed: int | None, depth: int = 0) -> Iterator[dict[str, Any]]:
        """The stages, those that others need first, then the run itself; ``seed`` is ``None`` where it is the run's."""
        for stage in map(str, config.stages):
            below = f"{only}.{stage}" if only else stage
            child = stage_config(config, stage)
            own = OmegaConf.to_container(config.stages[stage], resolve=False)
            assert isinstance(own, dict)
            inherited = own.get("seed") in (None, "${seed}")
            yield from self._describe(child, below, seed if inherited else int(child.seed), depth + 1)
        identity = identify(config)
        yield {
            "depth": depth,
            "only": only,
            "name": identity.name,
            "hash": identity.hash,
            "seed": seed,
            "targets": code_targets(config),
            "packages": list(config.get("allow") or ()),
        }

    def _place(self, spec: RunSpec, entry: Mapping[str, Any]) -> Place:
        seed = spec.seed if entry["seed"] is None else entry["seed"]
        directory = self.outputs / entry["name"] / entry["hash"] / f"seed{seed}"
        reached = tuple(entry["targets"]), tuple(entry["packages"])
        if reached not in self._codes:
            self._codes[reached] = code_fingerprint(*reached)
        overrides = (*spec.overrides, f"arm={spec.tag}", *([f"only={entry['only']}"] if entry["only"] else []))
        return Place(directory, entry["hash"], self._codes[reached], overrides, entry["only"])


def config_key(dirs: Sequence[Path], extra: Sequence[str] = ()) -> str:
    """Digest of all config files and of what else decides how overrides compose."""
    digest = hashlib.sha256(json.dumps([str(word) for word in extra]).encode())
    for folder in dirs:
        for path in sorted(folder.rglob("*.yaml")):
            digest.update(f"{path.relative_to(folder)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# Carrying out -------------------------------------------------------------------------------


def carry_out(
    planned: Sequence[Planned],
    launch: Launch,
    *,
    reuse: Literal["same_code", "any"] = "same_code",
    on_error: Literal["continue", "stop"] = "continue",
    retries: int = 0,
    at_once: int = 1,
    pause: float = 1.0,
) -> dict[Path, Failed]:
    """Run what is not finished: stages by depth, each directory once, then the runs.

    A run that another process is at is left to it and waited for at the end. One whose stage failed is not started.

    Args:
        planned: The study's runs.
        launch: Carries out a batch of override lists, given their names; returns a result or :class:`Failure` for each.
        reuse: ``any`` accepts runs that were finished by other code.
        on_error: ``stop`` starts nothing more once a run has failed.
        retries: How often a run is tried again that raised or was killed. One whose config is wrong, or whose loss
            is not finite, would only come to the same end.
        at_once: Runs in a batch when it must be possible to stop.
        pause: Seconds between looks at a run that is another process's.

    Returns:
        The runs and stages that failed, by directory, in the order in which they were to run.
    """
    tasks = _tasks(planned)
    failures: dict[Path, Failure] = {}
    for depth in sorted(tasks, reverse=True):
        waiting = [task for task in tasks[depth] if not _done(task.place, reuse)]
        for task in waiting:
            lost = next((failures[stage] for stage in task.needs if stage in failures), None)
            if lost is not None:
                failures[task.directory] = not_started(lost)
        waiting = [task for task in waiting if task.directory not in failures]
        size = at_once if on_error == "stop" else max(len(waiting), 1)
        while waiting and not (failures and on_error == "stop"):
            batch, waiting = waiting[:size], waiting[size:]
            again, busy = [], []
            results = launch([task.place.overrides for task in batch], [task.name(retries) for task in batch])
            for task, result in zip(batch, results, strict=True):
                if not isinstance(result, Failure):
                    continue
                if result.kind == "busy":
                    busy.append(task)
                elif task.tries < retries and _may_pass(result):
                    task.tries += 1
                    again.append(task)
                else:
                    failures[task.directory] = result
            if busy and not again and not _freed([task.place for task in busy], reuse):
                time.sleep(pause)
            waiting = again + waiting + [task for task in busy if not _done(task.place, reuse)]
    labels = {task.directory: task.label for depth in sorted(tasks, reverse=True) for task in tasks[depth]}
    return {
        directory: Failed(label, failures[directory]) for directory, label in labels.items() if directory in failures
    }


@dataclass
class _Task:
    """A directory to fill.

    Attributes:
        place: Where.
        label: The first run of the plan that it is, or is a stage of.
        needs: The directories of its stages, those that others need first.
        tries: How often it was tried again.
    """

    place: Place
    label: str
    needs: tuple[Path, ...]
    tries: int = 0

    @property
    def directory(self) -> Path:
        return self.place.directory

    def name(self, retries: int) -> str:
        """What it is called this time."""
        return f"{self.label} (try {self.tries + 1} of {retries + 1})" if retries else self.label


def _tasks(planned: Sequence[Planned]) -> dict[int, list[_Task]]:
    """By depth, 0 for the runs of the study themselves, the distinct directories in the order of the plan."""
    found: dict[int, dict[Path, _Task]] = {}
    for run in planned:
        for depth, place in (*run.stages, (0, run.place)):
            label = f"stage {place.stage} of {run.spec.label}" if place.stage else run.spec.label
            prefix = f"{place.stage}." if place.stage else ""
            needs = [stage.directory for _, stage in run.stages if stage.stage.startswith(prefix)]
            found.setdefault(depth, {}).setdefault(place.directory, _Task(place, label, tuple(needs)))
    return {depth: list(tasks.values()) for depth, tasks in found.items()}


def not_started(stage: Failure) -> Failure:
    """What becomes of a run whose stage failed."""
    return replace(stage, message=f"not started, its stage failed: {stage.message}")


def _may_pass(failure: Failure) -> bool:
    """Whether a run that failed may not fail another time."""
    return failure.status != 2 and failure.kind not in DIVERGED


def _done(place: Place, reuse: str) -> bool:
    found = state(place)[0]
    return found == "finished" or (found == "stale" and reuse == "any")


def _freed(places: Sequence[Place], reuse: str) -> bool:
    return any(_done(place, reuse) or not is_held(place.directory) for place in places)


def counted(planned: Sequence[Planned]) -> dict[State, int]:
    """How many of the study's distinct runs are in which state."""
    counts: dict[State, int] = {}
    for place in {run.place.directory: run.place for run in planned}.values():
        counts[state(place)[0]] = counts.get(state(place)[0], 0) + 1
    return counts


def check_choice(key: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse an option that is none of the allowed."""
    if value not in allowed:
        raise UserError(f"{key} must be one of {', '.join(allowed)}, got {value!r}")
