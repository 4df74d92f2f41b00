"""``replicata report``."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from replicata.errors import UserError, nearest
from replicata.run import compose as composing

USAGE = (
    "usage: replicata report [<family>/<slug> ...] [paths.outputs=DIR] [--config-dir DIR] [--html DIR [--readme FILE]]"
)


def report(arguments: Sequence[str]) -> None:
    """Print and write the report of studies, all of them if none is named; with ``--html``, pages of everything."""
    if any(word.partition("=")[0] in ("--html", "--readme") for word in arguments):
        from replicata.board.dashboard.command import report_pages

        report_pages(arguments)
        return
    from replicata.board.report import show, show_index, write, write_index
    from replicata.board.summary import summarise

    dirs, outputs, patterns = _read(arguments)
    folder = outputs / "report"
    summaries, problems = [], []
    for name in _named(patterns, dirs, outputs):
        try:
            summary = summarise(name, dirs, outputs, _results(name))
        except UserError as error:
            problems.append(str(error))
            continue
        if summary is not None:
            write(folder, summary)
            summaries.append(summary)
        elif name in patterns:
            problems.append(f"{name} has no runs here and no committed results; `replicata study {name}` runs it")
    if patterns:
        for summary in summaries:
            show(summary)
            print(f"report: {folder / summary.name}.md\n")
    else:
        write_index(folder, summaries)
        show_index(summaries)
        print(f"report: {folder / 'index.md'}")
    if problems:
        raise UserError("; ".join(problems))


def _read(arguments: Sequence[str]) -> tuple[list[Path], Path, list[str]]:
    """The folders of configs, the folder of runs, and the studies that were named."""
    from replicata.run.app import config_dirs

    dirs = composing.search_dirs(config_dirs(arguments))
    outputs, patterns, skip = "", [], False
    for word in arguments:
        flag, _, value = word.partition("=")
        if skip or flag in ("--config-dir", "-cd"):
            skip = word in ("--config-dir", "-cd")
        elif flag == "paths.outputs":
            outputs = value
        elif word.startswith("-") or "=" in word:
            raise UserError(f"{word} is not understood; {USAGE}")
        else:
            patterns.append(word)
    return dirs, Path(outputs or _default_outputs(dirs)).expanduser(), patterns


def _default_outputs(dirs: Sequence[Path]) -> str:
    """Where runs land if nothing else is said: the first ``paths/default.yaml`` says it."""
    from omegaconf import OmegaConf

    path = composing.find("paths", "default", dirs)
    return str(OmegaConf.create(composing.read(path)).outputs) if path is not None else "outputs"


def _named(patterns: Sequence[str], dirs: Sequence[Path], outputs: Path) -> list[str]:
    """The experiments with a study that the patterns name; without one, all that were run or have results."""
    from replicata.study.index import FILE

    choices = composing.choices("experiment", dirs)
    if not patterns:
        return [name for name in choices if (outputs / name / FILE).is_file() or _results(name).is_file()]
    names: list[str] = []
    for pattern in patterns:
        found = [name for name in choices if fnmatch(name, pattern) and composing.described(name, dirs).get("study")]
        if not found:
            raise UserError(f"there is no study {pattern!r}; {nearest(pattern, choices)}")
        names += [name for name in found if name not in names]
    return names


def _results(name: str) -> Path:
    from replicata.study.verdicts import results_path

    return results_path(Path.cwd(), name)
