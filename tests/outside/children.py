"""What a test's child process does: the ``replicata`` command, silent, at the head of a process group."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


def command(
    arguments: Sequence[str], environment: Mapping[str, str], patches: Mapping[str, Any], die_after: int | None
) -> None:
    """Run it, under this environment and with these values (``module:name``) in place of those of the modules.

    Args:
        die_after: End without a word (status 9) right after so many checkpoints.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the server that this is forked from blocks it
    os.environ.clear()
    os.environ.update(environment)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if "launcher=local" in arguments:  # its pool ends its workers when a process of the system's own ends
        own = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        os.execve(sys.executable, [sys.executable, "-m", "replicata", *arguments], own)
    for place, value in patches.items():
        module, name = place.split(":")
        setattr(import_module(module), name, value)
    if die_after is not None:
        _die(after=die_after)
    from replicata.cli import main

    sys.exit(main(list(arguments)))


def _die(after: int) -> None:
    from replicata.run.callbacks.checkpoint import Checkpoint

    written, write = [0], Checkpoint.write

    def counted(self: Checkpoint, *given: Any) -> None:
        write(self, *given)
        written[0] += 1
        if written[0] == after:
            os._exit(9)

    Checkpoint.write = counted  # type: ignore[method-assign]
