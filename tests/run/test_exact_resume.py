"""Exact resume: killed right after each of its checkpoints, a run ends in the bits of an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet  # noqa: F401  imported once, before the forks, like all that follows
import pytest
import typeguard  # noqa: F401

import replicata.run.execute
import replicata.tasks.supervised  # noqa: F401

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


def run(arguments: list[str], die_after: int | None = None) -> int:
    """Run in a forked process, which ends without a word right after its n-th checkpoint (status 9)."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    from replicata.cli import main
    from replicata.run.callbacks.checkpoint import Checkpoint

    written, write = [0], Checkpoint.write

    def counted(self: Checkpoint, *given: Any) -> None:
        write(self, *given)
        written[0] += 1
        if written[0] == die_after:
            os._exit(9)

    Checkpoint.write = counted  # type: ignore[method-assign]
    os._exit(main(arguments))


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_killed_after_every_checkpoint(
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    records: Callable[..., dict[Path, dict[str, Any]]],
) -> None:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.chdir(tmp_path)
    every = "callbacks.checkpoint.every_n_batches=1"
    command = ["run", "--config-dir", str(OUTSIDE / "conf"), "experiment=toy", every]
    words = ["~scheduler" if word == "scheduler=null" else word for word in overrides]
    assert run([*command, *words, "paths.outputs=whole"]) == 0
    ((whole, expected),) = records("whole").items()
    moment = 0
    while True:
        moment += 1
        status = run([*command, *words, "paths.outputs=cut"], die_after=moment)
        if status == 0:
            break
        assert status == 9
        cut = Path("cut") / whole.relative_to("whole")
        assert json.loads((cut / "run.json").read_text())["status"] == "running"
        assert run([*command, *words, "paths.outputs=cut"]) == 0
        record = json.loads((cut / "run.json").read_text())
        assert record["resumed"] == 1
        assert record["metrics"] == expected["metrics"], f"cut after checkpoint {moment}"
        for name in ("metrics.csv", "tables/noise.parquet"):
            assert (cut / name).read_bytes() == (whole / name).read_bytes(), f"{name} cut after checkpoint {moment}"
        shutil.rmtree("cut")
    assert moment >= 5


def test_the_time_before_a_kill_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Callable[..., dict[Path, dict[str, Any]]]
) -> None:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.chdir(tmp_path)
    command = ["run", "--config-dir", str(OUTSIDE / "conf"), "experiment=toy", "callbacks.checkpoint.every_n_batches=1"]
    command += ["data.steps_per_epoch=4", "trainer.max_epochs=2", "method.pause=0.05"]
    assert run(command, die_after=6) == 9
    assert run(command) == 0
    ((_, record),) = records().items()
    assert record["resumed"] == 1
    assert record["fit_seconds"] >= 8 * 0.05
    assert record["seconds"] >= record["fit_seconds"]
    rows = record["samples_per_second"] * record["fit_seconds"]
    assert rows == pytest.approx(8 * 16, abs=1), "eight batches of the toy"
