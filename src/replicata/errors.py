"""The two ways a run can stop short: the user's mistake (exit 2) and a run that failed (exit 1)."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class UserError(Exception):
    """Something the user can put right: shown as one line, without a traceback, exit status 2.

    Args:
        message: What is wrong, where, and what would be right.
        kind: Short machine-readable reason.
    """

    def __init__(self, message: str, kind: str = "mistake") -> None:
        super().__init__(message)
        self.kind = kind


class RunError(Exception):
    """A run that started and could not finish: shown as one line, exit status 1.

    Args:
        message: What happened, where, and what to do.
        kind: Short machine-readable reason kept in the record (``diverged``, ``disk_full`` ...).
        step: Batch at which it happened, where that is known.
    """

    def __init__(self, message: str, kind: str = "error", step: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.step = step


def nearest(word: str, choices: Iterable[str], prefix: str = "") -> str:
    """A hint that names the choices closest to ``word``, or all of them when none is close.

    Args:
        word: What was said.
        choices: What could have been.
        prefix: Put before each choice that is named.
    """
    known = sorted(set(choices))
    close = get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        likeness = [SequenceMatcher(None, word, name).ratio() for name in close]
        best = [name for name, ratio in zip(close, likeness, strict=True) if ratio > likeness[0] - 0.15]
        return f"did you mean {' or '.join(repr(prefix + name) for name in best)}?"
    if not known:
        return "there are no choices here"
    shown = ", ".join(prefix + name for name in known[:12]) + (", ..." if len(known) > 12 else "")
    return f"choose one of: {shown}"
