"""``replicata tune``: try the grids of a study's arms, show what is best, keep it in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from replicata.board.campaign import Campaign, list_runs
from replicata.board.command_line import each_study
from replicata.board.tables import number_text
from replicata.errors import RunError, UserError
from replicata.run.failures import Failed, Failure, noted, show_failures
from replicata.run.job import failed
from replicata.study.run import Planned, not_started, state
from replicata.study.schema import Study
from replicata.study.table import DIVERGED
from replicata.study.tuning import (
    Outcome,
    Tuned,
    content,
    differing,
    outcome,
    read_file,
    trials,
    tuning_path,
    words,
    write,
)

FLAGS = {"--arms": "arms", "--on-error": "on_error", "--retries": "retries", "--reuse": "reuse"}
SWITCHES = {"--dry-run": "dry_run", "--smoke": "smoke"}
USAGE = "usage: replicata tune <family>/<slug> [--arms a,b] [--dry-run] [overrides]"


def tune_command(arguments: Sequence[str]) -> None:
    """Try the grids of ``study.tuning``."""
    each_study(arguments, "tune", USAGE, FLAGS, SWITCHES, tune="true")


def carry_out_tuning(sweeper: Any, arguments: Sequence[str]) -> list[Tuned]:
    """What the study sweeper does with ``tune: true``.

    Args:
        sweeper: With Hydra's ``loader``, ``launcher`` and ``config``, and the ``options``.
        arguments: Overrides of the command line.
    """
    campaign = Campaign.of(sweeper, arguments, USAGE)
    study, name, extra, options = campaign.study, campaign.name, campaign.extra, campaign.options
    if not study.tuning:
        raise UserError(f"{name} has no study.tuning: add the grid, with its seeds, metric and mode, to its config")
    asked = [trials(study, entry, extra, options["arms"] or None) for entry in study.tuning]
    if not any(asked):
        raise UserError(f"{name}: study.tuning tunes none of {', '.join(options['arms'])}")
    planned = campaign.plan([trial for some in asked for trial in some])
    if options["dry_run"]:
        list_runs(planned)
        return []
    path = tuning_path(Path.cwd(), name)
    before = None if options["smoke"] else read_file(path)
    hopeless = {run.place.directory: failure for run in planned if (failure := _diverged(run)) is not None}
    possible = [run for run in planned if run.place.directory not in hopeless]
    problems = hopeless | {
        directory: one.failure
        for directory, one in campaign.carry_out(planned, f"{name} tuning", unit="trials", only=possible).items()
    }
    tuned = []
    ended, find = iter(planned), campaign.functions
    for entry, some in zip(study.tuning, asked, strict=True):
        outcomes = [
            outcome(study, entry, trial, run.place, problem=problems.get(run.place.directory), functions=find)
            for trial, run in zip(some, ended, strict=False)
        ]
        tuned.append(Tuned(entry, outcomes))
    for left in (failed, noted):
        left.clear()
    undone = _unfinished(tuned)
    if undone is None:
        for one in tuned:
            show(study, one)
        _compare(study, tuned, campaign.planner.compose, extra)
        if options["smoke"]:
            print("smoke trials: they show that the tuning works, and choose nothing", file=sys.stderr)
        else:
            write(path, content(study, tuned, campaign.kept, before))
            print(f"wrote {path}")
    without = [out for one in tuned for out in one.outcomes if out.value is None]
    if without:
        show_failures([Failed(out.trial.label, Failure(out.reason, 1, _word(out))) for out in without])
    failed.extend(_failures(tuned) if undone is None else [undone])
    return tuned


def _diverged(run: Planned) -> Failure | None:
    """How a trial, or a stage of it, has diverged before: with the same code it would again."""
    for place in (*(stage for _, stage in run.stages), run.place):
        found, record = state(place)
        error = (record or {}).get("error") or {}
        if found == "failed" and record and record["code"] == place.code and error.get("kind") in DIVERGED:
            failure = Failure(error["message"], 1, error["kind"])
            return not_started(failure) if place.stage else failure
    return None


def _unfinished(tuned: Sequence[Tuned]) -> RunError | None:
    """Why nothing can be chosen yet, if so.

    Raises:
        UserError: if no trial of an entry has the metric that it names.
    """
    outcomes = [out for one in tuned for out in one.outcomes]
    undone = [out for out in outcomes if out.status not in ("finished", "diverged", "failed")]
    if undone:
        return RunError(f"{len(undone)} of {len(outcomes)} trials are not done; the same command goes on with them")
    broken = {out.trial.arm for out in outcomes if out.status == "failed"}
    lost = [arm for one in tuned for arm in one.arms if arm in broken and one.best(arm) is None]
    if lost:
        names = ", ".join(dict.fromkeys(lost))
        return RunError(f"no trial of {names} has a value, and not for what was tried; nothing is written")
    for one in tuned:
        finished = [out for out in one.outcomes if out.status == "finished"]
        if finished and all(out.value is None for out in finished):
            raise UserError(f"study.tuning: {finished[0].reason}")
    return None


def _failures(tuned: Sequence[Tuned]) -> list[RunError]:
    """What the command fails for. Divergence is an answer to what was tried, unless there is no other."""
    none = [arm for one in tuned for arm, values in one.chosen.items() if values is None]
    if none:
        return [RunError(f"nothing can be chosen for {', '.join(dict.fromkeys(none))}: no trial has a value")]
    outcomes = [out for one in tuned for out in one.outcomes]
    broken = [out for out in outcomes if out.value is None and out.status != "diverged"]
    return [RunError(f"{len(broken)} of {len(outcomes)} trials failed and count as worst")] if broken else []


def show(study: Study, tuned: Tuned) -> None:
    """Print the trials of an entry, arm by arm."""
    entry = tuned.entry
    if not tuned.outcomes:
        return
    rows = [["arm", *entry.grid, entry.metric, ""]]
    for arm in tuned.arms:
        best = tuned.best(arm)
        for at, values in enumerate(entry.settings()):
            score = tuned.score(arm, values)
            mine = [out for out in tuned.outcomes if out.trial.arm == arm and dict(out.trial.values) == values]
            notes = list(dict.fromkeys(_word(out) for out in mine if out.value is None))
            if values == best:
                edges = [f"{end} {key}" for key, end in tuned.edges(arm).items()]
                notes = ["chosen" + f", at the edge of the grid: {', '.join(edges)}" * bool(edges)]
            shown = "" if score is None else number_text(score)
            rows.append(
                ["" if at else arm, *(word.partition("=")[2] for word in words(values)), shown, ", ".join(notes)]
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    way = "highest" if entry.higher else "lowest"
    levels = "".join(f", {factor}={level}" for factor, level in entry.where.items())
    seeds = f"seed{'s' * (len(entry.seeds) > 1)} {', '.join(map(str, entry.seeds))}"
    print(f"{study.name}: the {way} {entry.metric} of {len(entry.settings())} settings{levels}, {seeds}")
    for row in rows:
        print("  " + "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def _word(out: Outcome) -> str:
    """What a trial without a value is called."""
    return out.status if out.status != "finished" else "without a value"


def _compare(study: Study, tuned: Sequence[Tuned], compose: Callable[..., DictConfig], extra: Sequence[str]) -> None:
    """Say where the arms of the config have other values than the chosen ones."""
    lines = []
    for one in tuned:
        for arm, keys in differing(study, one.entry, one.chosen, compose, extra).items():
            best = one.best(arm) or {}
            lines += [f"  {arm}: {words({key: best[key]})[0]} (it has {json.dumps(now)})" for key, now in keys.items()]
    if any(values for one in tuned for values in one.chosen.values()):
        print("\n".join(["type these into the arms:", *lines]) if lines else "the arms have the chosen values")
