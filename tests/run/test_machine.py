"""Runs that compute side by side on a machine, and one that measures times and must be alone."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicata.errors import UserError
from replicata.run.machine import place

WAIT = 20.0


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of the test's own: other runs of the machine neither wait nor are waited for."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


class Visit(threading.Thread):
    """A stay in a place, until it is told to leave."""

    def __init__(self, alone: bool) -> None:
        super().__init__(daemon=True)
        self.alone, self.inside, self.leave = alone, threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with place(self.alone):
            self.inside.set()
            self.leave.wait(WAIT)

    def end(self) -> None:
        self.leave.set()
        self.join(WAIT)
        assert not self.is_alive()


def test_ordinary_runs_are_side_by_side() -> None:
    first, second = Visit(alone=False), Visit(alone=False)
    assert first.inside.wait(WAIT)
    assert second.inside.wait(WAIT)
    first.end()
    second.end()


def test_a_measuring_run_waits_for_others_and_keeps_new_ones_out() -> None:
    ordinary = Visit(alone=False)
    assert ordinary.inside.wait(WAIT)
    measuring = Visit(alone=True)
    while not _taken("gate"):
        time.sleep(0.01)
    late = Visit(alone=False)
    assert not measuring.inside.wait(0.2)
    assert not late.inside.is_set(), "nobody overtakes a measuring run that waits"
    ordinary.end()
    assert measuring.inside.wait(WAIT)
    assert not late.inside.wait(0.2)
    measuring.end()
    assert late.inside.wait(WAIT)
    late.end()


def _taken(name: str) -> bool:
    import tempfile

    file = os.open(Path(tempfile.gettempdir()) / f"replicata-{name}.lock", os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def test_a_place_goes_with_its_process() -> None:
    code = "from replicata.run.machine import place\nwith place(True): print('in', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    waiting = Visit(alone=False)
    assert not waiting.inside.wait(0.2)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert waiting.inside.wait(WAIT)
    waiting.end()


def test_a_place_is_not_kept_by_what_was_forked_meanwhile() -> None:
    with place(False):
        heir = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        heir.start()
    waiting = Visit(alone=True)
    assert waiting.inside.wait(WAIT)
    waiting.end()
    heir.kill()
    heir.join()


def test_a_folder_that_cannot_be_used_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="set TMPDIR"), place(False):
        pass


@pytest.mark.parametrize("alone", [False, True])
def test_a_method_that_measures_runs_alone(
    alone: bool, toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import replicata.run.runner

    asked: list[bool] = []

    def noted(alone: bool) -> Any:
        asked.append(alone)
        return place(alone)

    monkeypatch.setattr(replicata.run.runner, "place", noted)
    monkeypatch.setattr("toypkg.Walk.exclusive", alone, raising=False)
    assert toy("walk", "method.steps=2").status == 0
    assert asked == [alone]
