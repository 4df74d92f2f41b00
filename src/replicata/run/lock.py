"""One process to a run directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replicata.errors import UserError


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the directory, creating it if need be.

    The lock is the operating system's: it goes with the process, however that ends, so there is no
    stale lock. The file keeps the holder's process number for the message.

    Raises:
        UserError: if another process holds it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    path = directory / ".lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout:
        holder = _holder(directory)
        raise UserError(f"{directory} is in use by another process{holder}; wait for it or stop it", "busy") from None
    except OSError as error:
        raise UserError(
            f"paths.outputs: cannot write to {directory} ({error.strerror}); set paths.outputs to a writable folder"
        ) from None
    try:
        (directory / ".holder").write_text(str(os.getpid()))
        yield
    finally:
        (directory / ".holder").unlink(missing_ok=True)
        lock.release()


def _holder(directory: Path) -> str:
    try:
        return f" (process {int((directory / '.holder').read_text())})"
    except (OSError, ValueError):
        return ""


def is_held(directory: Path) -> bool:
    """Whether some process is at this run now."""
    from filelock import FileLock, Timeout

    path = directory / ".lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True
