"""Fixtures that many tests use."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
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

    def run(method: Any, data: Any, seed: int = 0, **trainer: Any) -> Any:
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
        loop.fit(method, datamodule=data)
        return loop

    return run


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


def records(outputs: Path | str = "outputs") -> dict[Path, dict[str, Any]]:
    """All records under a folder, by directory."""
    return {path.parent: json.loads(path.read_text()) for path in sorted(Path(outputs).rglob("run.json"))}


@pytest.fixture(name="records")
def records_fixture() -> Callable[..., dict[Path, dict[str, Any]]]:
    return records
