"""A crash of generated or compiled code is a result, not the end of the run."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT = 1800.0  # seconds; a safety net, no budget


class Rejected(Exception):
    """A compiler did not accept a program, or what it made of it did not run; the message says why."""


def isolated(function: Callable[[], Any]) -> Any:
    """What the function returns, computed in a child process where the system can fork.

    Args:
        function: Returns something that can be pickled without shared memory: numbers, texts, arrays.

    Raises:
        Rejected: if it raised, or its process died.
    """
    if sys.platform != "linux":
        return _unpack(_attempt(function))
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, function))
    child.start()
    sender.close()
    try:
        answer = receiver.recv_bytes() if receiver.poll(TIMEOUT) else b""
    except EOFError:
        answer = b""
    finally:
        if not receiver.closed:
            receiver.close()
    if not answer:
        child.join(1)  # one that died has an exit code by now
        code = child.exitcode
        child.kill()
        child.join()
        raise Rejected(_death(code))
    child.join()
    return _unpack(answer)


def _attempt(function: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((True, function()))
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return pickle.dumps((False, f"{type(error).__name__}: {lines[0]}"))


def _answer(sender: Connection, function: Callable[[], Any]) -> None:
    sender.send_bytes(_attempt(function))
    sender.close()


def _unpack(answer: bytes) -> Any:
    succeeded, value = pickle.loads(answer)
    if not succeeded:
        raise Rejected(value)
    return value


def _death(code: int | None) -> str:
    if code is None:
        return f"no answer after {TIMEOUT:.0f} s"
    return f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"
