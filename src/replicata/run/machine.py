"""Who computes on this machine: ordinary runs side by side, a run that measures times alone.

Two locks of the operating system, which end with the process that holds them. Every run holds ``machine``, ordinary
ones together and a measuring one alone. ``gate`` is passed on the way in: a measuring run keeps it while it waits for
the others to end, so that no new one goes in before it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from replicata.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def place(alone: bool) -> Iterator[None]:
    """A place among the runs of this machine, for as long as a run computes.

    Args:
        alone: Whether other runs have to wait meanwhile; those that are under way are waited for.

    Raises:
        UserError: if the folder for temporary files cannot be used.
    """
    with _held("gate", fcntl.LOCK_EX) as gate, _held("machine", fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@contextmanager
def _held(name: str, how: int) -> Iterator[int]:
    path = Path(tempfile.gettempdir()) / f"replicata-{name}.lock"
    try:
        file = _open(path)
    except OSError as error:
        raise UserError(f"cannot use {path} ({error.strerror}); set TMPDIR to a writable folder") from None
    try:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            _say_waiting(name)
            fcntl.flock(file, how)
        yield file
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing would not do: a process forked meanwhile has the file open too
        os.close(file)


def _open(path: Path) -> int:
    """The lock file, read-only: it may be another user's, and a lock asks for no more."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644))
    return os.open(path, os.O_RDONLY)


def _say_waiting(name: str) -> None:
    if name == "machine":
        said = "waits until it is alone on this machine, to measure times"
    else:
        said = "waits for a run that measures times on this machine"
    log.info(said)
    if sys.stderr.isatty():
        print(said, file=sys.stderr)
