"""``replicata study``: plan, run, judge, show; and ``replicata check-results``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from replicata.board.campaign import Campaign, list_runs
from replicata.board.command_line import config_dir_words, each_study, named
from replicata.board.figures import draw_all
from replicata.board.progress import StudyProgress
from replicata.board.tables import show_verdicts
from replicata.errors import RunError, UserError
from replicata.run import compose as composing
from replicata.run.failures import Failed, noted, show_failures
from replicata.run.job import failed
from replicata.study.claims import Verdict, evaluate
from replicata.study.index import FILE, Entry, Index
from replicata.study.parse import parse
from replicata.study.plan import expand, needed_arms, select_claims
from replicata.study.run import Planned, Planner, config_key
from replicata.study.schema import Study
from replicata.study.table import read
from replicata.study.verdicts import build, changes, joined, results_path, write
from replicata.study.verdicts import read as read_results

FLAGS = {
    **{"--arms": "arms", "--claims": "claims", "--seeds": "seeds"},
    **{"--on-error": "on_error", "--retries": "retries", "--reuse": "reuse"},
}
SWITCHES = {"--dry-run": "dry_run", "--watch": "watch", "--smoke": "smoke", "--commit-results": "commit_results"}
USAGE = "usage: replicata study <family>/<slug> ... [--seeds N] [--arms a,b] [--claims a,b] [overrides]"


def study_command(arguments: Sequence[str]) -> None:
    """Carry out one study or several."""
    each_study(arguments, "study", USAGE, FLAGS, SWITCHES)


def carry_out_study(sweeper: Any, arguments: Sequence[str]) -> list[Verdict]:
    """What the study sweeper does.

    Args:
        sweeper: With Hydra's ``loader``, ``launcher`` and ``config``, and the ``options`` of the study.
        arguments: Overrides of the command line.
    """
    campaign = Campaign.of(sweeper, arguments, USAGE)
    options = campaign.options
    _at_this_scale(campaign.study, options["claims"])
    specs = expand(
        campaign.study,
        campaign.extra,
        arms=options["arms"] or None,
        claims=options["claims"] or None,
        seeds=options["seeds"],
    )
    planned = campaign.plan(specs)
    if options["dry_run"]:
        list_runs(planned)
        return []
    folder = campaign.planner.outputs / campaign.name
    _remember(folder / FILE, campaign, planned)
    problems: Mapping[Path, Failed] = {}
    if options["watch"]:
        with StudyProgress(planned, campaign.name, failures=True) as progress:
            progress.wait()
    else:
        problems = campaign.carry_out(planned, campaign.name)
    verdicts = judge(campaign, planned, folder, problems)
    for left in (failed, noted):
        left.clear()
    if problems:
        show_failures(list(problems.values()))
        count = sum(run.place.directory in problems for run in planned)
        again = "the others are kept, and the same command tries these again"
        failed.append(RunError(f"{count} of {len(planned)} runs failed, listed above; {again}"))
    return verdicts


def _remember(path: Path, campaign: Campaign, planned: Sequence[Planned]) -> None:
    """Write which run is what, for the report.

    Arms and levels that are not planned now are kept from before, if the study had the same overrides then.
    """
    entries = [
        Entry(run.spec.arm, run.spec.levels, run.spec.seed, run.place.directory, run.place.hash, run.place.code)
        for run in planned
    ]
    before = Index.read(path)
    if before is None or before.overrides != tuple(campaign.extra):
        before = Index(campaign.name, tuple(campaign.extra), ())
    before.joined(entries).write(path)


def judge(
    campaign: Campaign, planned: Sequence[Planned], folder: Path, problems: Mapping[Path, Failed] | None = None
) -> list[Verdict]:
    """The verdicts on the runs as they stand: printed, and written where that was asked for; and the figures.

    Args:
        campaign: What was asked for.
        planned: The runs.
        folder: Of the study.
        problems: Why runs failed, for those whose records could not say it.
    """
    study, options = campaign.study, campaign.options
    why = {directory: one.failure for directory, one in (problems or {}).items()}
    table = read(study, [(run.spec, run.place.directory) for run in planned], campaign.functions, why)
    wanted = options["claims"] or [claim.id for claim in study.claims if _covered(study, claim, planned)]
    verdicts = evaluate(study, table, claims=wanted)
    if options["smoke"]:
        print("smoke runs: what follows shows that the study works, and says nothing about the paper", file=sys.stderr)
    show_verdicts(study, verdicts)
    figures = draw_all(table, folder / "figures")
    for problem in (problem for drawn in figures for problem in drawn.problems):
        print(f"replicata: {problem}", file=sys.stderr)
    print(f"runs: {folder}   figures: {folder / 'figures'}")
    paper = campaign.config.paper or {}
    if options["commit_results"]:
        path = results_path(Path.cwd(), study.name)
        reconstructed = bool(paper.get("reconstructed"))
        results = build(study, table, verdicts, reconstructed=reconstructed, extra=campaign.kept)
        with suppress(UserError):  # none yet, or one that cannot be read
            results = joined(read_results(path), results, study)
        write(path, results)
        print(f"wrote {path}")
    settings = OmegaConf.select(campaign.config, "logger.wandb")
    if settings is not None:
        from replicata.board.wandb_study import log_study

        log_study({str(key): settings[key] for key in settings}, study.name, verdicts, figures, folder)
    return verdicts


def _at_this_scale(study: Study, claims: Sequence[str]) -> None:
    """Refuse to be asked for what is decided at another scale."""
    for claim in select_claims(study, claims):
        if claim.id in claims and claim.scale not in (None, study.scale):
            other = f"{study.name}_paper" if claim.scale == "paper" else study.name.removesuffix("_paper")
            raise UserError(f"claim {claim.id!r} is decided at {claim.scale} scale only: replicata study {other}")


def _covered(study: Study, claim: Any, planned: Sequence[Planned]) -> bool:
    """Whether the arms that a claim compares were planned: with --arms, the others say nothing."""
    return needed_arms(study, [claim]) <= {run.spec.arm for run in planned}


def check_results(arguments: Sequence[str]) -> None:
    """Say which committed results no longer belong to the configs and the code."""
    rest, folders = config_dir_words(arguments)
    dirs = composing.search_dirs([Path(folder) for folder in folders])
    names = named(list(rest) or ["*"], dirs)
    stale = 0
    for name in names:
        path = results_path(Path.cwd(), name)
        if not path.exists():
            print(f"{name}: no results yet")
            stale += 1
            continue
        config = composing.compose([f"experiment={name}"], folders)
        study = parse(config.study, name)
        compose = partial(composing.compose, extra=folders)
        planned = Planner(compose, name, Path(config.paths.outputs).expanduser(), config_key(dirs, [])).plan(
            expand(study)
        )
        current = {(run.spec.arm, run.spec.levels): (run.place.hash, run.place.code) for run in planned}
        reasons = changes(read_results(path), study, current)
        stale += bool(reasons)
        print(f"{name}: {'; '.join(reasons) if reasons else 'up to date'}")
    if stale:
        raise RunError(f"{stale} of {len(names)} results are stale or missing: replicata study <name> --commit-results")
