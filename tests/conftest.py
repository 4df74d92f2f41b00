"""Fixtures that many tests use."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from replicata.streams import Streams

torch.set_num_threads(1)


def pytest_configure() -> None:
    """Ctrl-C is part of what is tested; a suite that was started in the background inherits it as ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gloo can abort a process at its end, or lose a connection; nothing else is tried again."""
    for item in items:
        if item.get_closest_marker("processes"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture
def streams() -> Streams:
    return Streams(seed=0)


@pytest.fixture
def data_root() -> Path:
    """The folder of real data; the test is skipped where there is none."""
    root = os.environ.get("REPLICATA_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("needs real data: set REPLICATA_DATA")
    return Path(root)


@pytest.fixture
def fit() -> Callable[..., Any]:
    """Train a method on a data module with the streams of one seed, without the runner."""
    import lightning.pytorch as pl

    def run(method: Any, data: Any, seed: int = 0, resume: Path | None = None, **trainer: Any) -> Any:
        method.streams = data.streams = Streams(seed)
        torch.manual_seed(seed)
        settings = {
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
        loop = pl.Trainer(**(settings | {"max_epochs": 1} | trainer))
        loop.fit(method, datamodule=data, ckpt_path=resume, weights_only=True)
        return loop

    return run


@pytest.fixture
def saving() -> Callable[..., Any]:
    """A callback that saves a checkpoint after every batch, or after so many of them alone."""
    import lightning.pytorch as pl

    class Saving(pl.Callback):
        def __init__(self, path: Path, after: int | None = None) -> None:
            self.path, self.after = path, after

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if self.after in (None, trainer.fit_loop.epoch_loop.total_batch_idx + 1):
                trainer.save_checkpoint(self.path)

    return Saving


OUTSIDE = Path(__file__).parent / "outside"


@dataclass(frozen=True)
class Called:
    """What a command printed and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def replicata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Called]:
    """The ``replicata`` command in this process, from an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Called:
        from replicata.cli import main

        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Called(status, out, err)

    return call


@pytest.fixture
def toy(replicata: Callable[..., Called], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Called]:
    """``replicata run`` on the experiments of a package outside Replicata (``tests/outside``)."""
    monkeypatch.syspath_prepend(str(OUTSIDE))

    def call(experiment: str, *overrides: str) -> Called:
        return replicata("run", "--config-dir", OUTSIDE / "conf", f"experiment={experiment}", *overrides)

    return call


@dataclass(frozen=True)
class Child:
    """A ``replicata`` command in a process of its own."""

    process: BaseProcess

    def status(self, seconds: float = 240) -> int:
        """Its exit status, the signal's number with a minus sign if it was killed by one."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it has not ended after {seconds:.0f} s"
        return self.process.exitcode

    def until(self, begun: Callable[[], Any], seconds: float = 240) -> None:
        """Wait for a moment in its life."""
        end = time.monotonic() + seconds
        while not begun():
            assert self.process.is_alive(), f"it ended with status {self.process.exitcode} before that"
            assert time.monotonic() < end, f"this has not come after {seconds:.0f} s"
            time.sleep(0.005)

    def kill(self, how: signal.Signals = signal.SIGKILL, group: bool = False) -> int:
        """Send it, or all of its group, a signal; its exit status."""
        assert self.process.pid is not None
        for send in (os.killpg, os.kill) if group else (os.kill,):
            with suppress(ProcessLookupError):
                send(self.process.pid, how)
        return self.status()


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Child]]:
    """Start ``replicata`` in a child of this process, with the package of ``tests/outside`` at hand.

    The child is forked from a server that has torch imported and no threads. A fork of the test's own process would
    wait for ever for a lock that one of its threads held, and would be a second test process if anything was raised.
    """
    monkeypatch.syspath_prepend(str(OUTSIDE))
    children: list[Child] = []

    def start(*arguments: object, patches: Mapping[str, Any] | None = None, die_after: int | None = None) -> Child:
        from children import command

        from replicata.run.pool import start_server

        start_server(threads=1)
        given = ([str(argument) for argument in arguments], dict(os.environ), dict(patches or {}), die_after)
        process = get_context("forkserver").Process(target=command, args=given)
        process.start()
        children.append(Child(process))
        return children[-1]

    yield start
    for one in children:
        if one.process.is_alive():
            one.kill(group=True)


def records(outputs: Path | str = "outputs") -> dict[Path, dict[str, Any]]:
    """All records under a folder, by directory."""
    return {path.parent: json.loads(path.read_text()) for path in sorted(Path(outputs).rglob("run.json"))}


@pytest.fixture(name="records")
def records_fixture() -> Callable[..., dict[Path, dict[str, Any]]]:
    return records
