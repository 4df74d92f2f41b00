"""Exact resume: killed right after each of its checkpoints, a run ends in the bits of an undisturbed one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OUTSIDE = Path(__file__).parents[1] / "outside"

CASES = {
    "epochs": ["data.steps_per_epoch=3", "trainer.max_epochs=3"],
    "one step an epoch": ["data.steps_per_epoch=1", "trainer.max_epochs=6", "trainer.check_val_every_n_epoch=2"],
    "counted in steps": [
        "data.steps_per_epoch=4",
        "trainer.max_epochs=-1",
        "trainer.max_steps=9",
        "trainer.val_check_interval=3",
        "trainer.check_val_every_n_epoch=null",
    ],
    "accumulated": ["data.steps_per_epoch=4", "trainer.max_epochs=2", "trainer.accumulate_grad_batches=2"],
    "plateau": [
        "data.steps_per_epoch=2",
        "trainer.max_epochs=4",
        "scheduler=plateau",
        "scheduler.scheduler.patience=0",
    ],
    "two optimizers": ["method=two_optimizers", "scheduler=null", "data.steps_per_epoch=3", "trainer.max_epochs=2"],
    "limited batches": ["trainer.limit_train_batches=3", "trainer.max_epochs=2"],
}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_killed_after_every_checkpoint(
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    child: Callable[..., Any],
    records: Callable[..., dict[Path, dict[str, Any]]],
) -> None:
    monkeypatch.chdir(tmp_path)
    every = "callbacks.checkpoint.every_n_batches=1"
    command = ["run", "--config-dir", str(OUTSIDE / "conf"), "experiment=toy", every]
    words = ["~scheduler" if word == "scheduler=null" else word for word in overrides]
    assert child(*command, *words, "paths.outputs=whole").status() == 0
    ((whole, expected),) = records("whole").items()
    moment = 0
    while True:
        moment += 1
        status = child(*command, *words, "paths.outputs=cut", die_after=moment).status()
        if status == 0:
            break
        assert status == 9
        cut = Path("cut") / whole.relative_to("whole")
        assert json.loads((cut / "run.json").read_text())["status"] == "running"
        assert child(*command, *words, "paths.outputs=cut").status() == 0
        record = json.loads((cut / "run.json").read_text())
        assert record["resumed"] == 1
        assert record["metrics"] == expected["metrics"], f"cut after checkpoint {moment}"
        for name in ("metrics.csv", "tables/noise.parquet"):
            assert (cut / name).read_bytes() == (whole / name).read_bytes(), f"{name} cut after checkpoint {moment}"
        shutil.rmtree("cut")
    assert moment >= 5


def test_the_time_before_a_kill_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    child: Callable[..., Any],
    records: Callable[..., dict[Path, dict[str, Any]]],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["run", "--config-dir", str(OUTSIDE / "conf"), "experiment=toy", "callbacks.checkpoint.every_n_batches=1"]
    command += ["data.steps_per_epoch=4", "trainer.max_epochs=2", "method.pause=0.05"]
    assert child(*command, die_after=6).status() == 9
    assert child(*command).status() == 0
    ((_, record),) = records().items()
    assert record["resumed"] == 1
    assert record["fit_seconds"] >= 8 * 0.05
    assert record["seconds"] >= record["fit_seconds"]
    rows = record["samples_per_second"] * record["fit_seconds"]
    assert rows == pytest.approx(8 * 16, abs=1), "eight batches of the toy"
