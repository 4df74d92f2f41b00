"""Runs of a sweep or a study that failed: each is said once, when it happens, and all are listed at the end."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from replicata.errors import RunError, UserError

WORDS = {"diverged": "loss not finite", "not_finite": "metric not finite", "misfit": "error", "disk": "disk full"}
NARROWEST = 40  # columns for a reason; on a narrower terminal its lines break where the terminal does


@dataclass(frozen=True)
class Failure:
    """Why a job of a sweep has no metrics; returned instead of raised, so that the others go on.

    Args:
        message: One line.
        status: The exit status it would have had alone.
        kind: Machine-readable reason (``busy``: another process is at this very run).
    """

    message: str
    status: int
    kind: str


@dataclass(frozen=True)
class Failed:
    """A failure, and the run's name."""

    label: str
    failure: Failure


noted: list[Failed] = []  # of the sweep of this process: Hydra's sweepers do not hand results back
names: dict[tuple[str, ...], str] = {}  # what a study calls its jobs, by their overrides


def note(overrides: Sequence[str], failure: Failure, printed: bool = False) -> None:
    """Say that a job failed, and keep it for the end.

    A job with an ``arm`` and no name is left to whoever gave it that arm: a search, or a study in another process.

    Args:
        overrides: The job's.
        failure: Why.
        printed: Whether the job has said so itself.
    """
    label = names.get(tuple(overrides))
    if label is None:
        if any(word.startswith("arm=") for word in overrides):
            return
        label = " ".join(overrides)
    elif failure.kind == "busy":  # a study waits for it
        return
    noted.append(Failed(label, failure))
    if not printed:
        print(f"replicata: {label} failed: {failure.message}", file=sys.stderr, flush=True)


def show_failures(failed: Sequence[Failed]) -> None:
    """List the runs that failed: name, kind of reason, reason."""
    sys.stdout.flush()
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    print(listed(failed, width), file=sys.stderr, flush=True)


def listed(failed: Sequence[Failed], width: int | None = None) -> str:
    """A line for every run that failed; broken within its column where ``width`` is given.

    >>> print(listed([Failed("plain seed 0", Failure("train/loss is not finite at batch 3", 1, "diverged"))]))
    failed runs:
      plain seed 0  loss not finite  train/loss is not finite at batch 3
    """
    rows = [(one.label, word(one.failure), one.failure.message) for one in failed]
    name, kind = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = ["failed runs:"]
    indent = name + kind + 6
    for label, why, message in rows:
        head = f"  {label:<{name}}  {why:<{kind}}  "
        room = width - indent if width else 0
        parts = textwrap.wrap(message, room) if room >= NARROWEST else [message]
        lines.append(head + f"\n{'':<{indent}}".join(parts))
    return "\n".join(lines)


def word(failure: Failure) -> str:
    """The kind of a failure as people say it."""
    return WORDS.get(failure.kind, failure.kind.replace("_", " "))


def conclusion(failed: Sequence[Failed]) -> RunError | UserError:
    """What a sweep with failed runs ends with: 2 where all of them are mistakes in the command, else 1."""
    count = f"{len(failed)} run{'s' * (len(failed) > 1)} failed, listed above; the others are kept"
    return (UserError if all(one.failure.status == 2 for one in failed) else RunError)(count)
