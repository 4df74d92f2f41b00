"""What goes wrong while a run goes: one clear line, the right exit status, nothing lost."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from replicata.run import record as run_record

Toy = Callable[..., Any]
Records = Callable[..., dict[Path, dict[str, Any]]]
OUTSIDE = Path(__file__).parents[1] / "outside"


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("replicata: ") and "Traceback" not in text


def test_a_loss_that_is_not_finite_names_the_batch_and_keeps_the_checkpoint(toy: Toy, records: Records) -> None:
    called = toy("toy", "method.poison=20", "callbacks.checkpoint.every_n_batches=5")
    assert called.status == 1
    assert one_line(called.err)
    assert "batch 21" in called.err
    ((directory, record),) = records().items()
    assert record["status"] == "failed"
    assert record["error"] == {"message": record["error"]["message"], "kind": "diverged", "step": 21}
    kept = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    assert kept["callbacks"]["Checkpoint"]["batches"] == 20


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(toy: Toy, records: Records) -> None:
    undisturbed = toy("toy", "paths.outputs=ref")
    assert undisturbed.status == 0
    assert toy("toy", "method.poison=50", "callbacks.checkpoint.every_n_batches=7").status == 1
    ((directory, _),) = records().items()
    # The same run without the poison is another run; give it the failed one's checkpoints.
    ((reference, expected),) = records("ref").items()
    twin = Path("twin") / reference.relative_to("ref")
    shutil.copytree(reference, twin)
    shutil.rmtree(twin / "checkpoints")
    shutil.copytree(directory / "checkpoints", twin / "checkpoints")
    (twin / "run.json").write_text(json.dumps(expected | {"status": "running"}))
    last = twin / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert toy("toy", "paths.outputs=twin").status == 0
    resumed = json.loads((twin / "run.json").read_text())
    assert resumed["resumed"] == 1
    assert resumed["metrics"] == expected["metrics"]
    assert "damaged" in (twin / "log.txt").read_text()


def test_a_second_process_is_kept_out(toy: Toy, records: Records) -> None:
    from filelock import FileLock

    assert toy("toy", "--smoke").status == 0
    ((directory, _),) = records().items()
    holder = multiprocessing.get_context("spawn")
    ready = holder.Event()
    process = holder.Process(target=_hold, args=(str(directory / ".lock"), ready))
    process.start()
    assert ready.wait(30)
    called = toy("toy", "--smoke")
    process.terminate()
    process.join()
    assert called.status == 2
    assert one_line(called.err)
    assert "in use by another process" in called.err
    with FileLock(directory / ".lock", timeout=0):
        pass  # the lock went with its process


def _hold(path: str, ready: Any) -> None:
    from filelock import FileLock

    with FileLock(path):
        ready.set()
        time.sleep(60)


def test_a_record_of_a_newer_schema_is_left_alone(toy: Toy, records: Records) -> None:
    assert toy("toy", "--smoke").status == 0
    ((directory, record),) = records().items()
    text = json.dumps(record | {"schema": 99})
    (directory / "run.json").write_text(text)
    called = toy("toy", "--smoke")
    assert called.status == 2
    assert one_line(called.err)
    assert "newer" in called.err
    assert (directory / "run.json").read_text() == text


def test_an_outputs_folder_that_cannot_be_written(toy: Toy) -> None:
    Path("file").write_text("")
    called = toy("toy", "paths.outputs=file/outputs")
    assert called.status == 2
    assert one_line(called.err)
    assert "paths.outputs" in called.err


def test_nothing_is_left_of_a_run_that_was_refused(toy: Toy) -> None:
    assert toy("toy", "method.sigma=-1").status == 2
    assert toy("toy", "data.n_val=100000").status == 2
    assert not list(Path("outputs").rglob("*.json"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_the_checkpoint_before(toy: Toy, records: Records, small_disk: Path) -> None:
    command = ("toy", "callbacks.checkpoint.every_n_batches=4", f"paths.outputs={small_disk}", "model.hidden=4000")
    called = toy(*command)
    assert called.status == 1
    assert one_line(called.err)
    assert "disk is full" in called.err
    ((directory, _),) = records(small_disk).items()
    for path in (directory / "checkpoints").iterdir():
        torch.load(path, weights_only=True)
    assert not list(directory.rglob("*.tmp")) + list(directory.rglob(".writing*"))


KILLED = {
    "every batch": ["experiment=toy", "callbacks.checkpoint.every_n_batches=1"],
    "epochs of 7 steps, plateau": [
        "experiment=toy",
        "data.steps_per_epoch=7",
        "trainer.max_epochs=8",
        "scheduler=plateau",
        "scheduler.scheduler.patience=0",
        "callbacks.checkpoint.every_n_batches=2",
    ],
    "counted in steps, validation inside epochs": [
        "experiment=toy",
        "trainer.max_epochs=-1",
        "trainer.max_steps=50",
        "trainer.val_check_interval=7",
        "trainer.check_val_every_n_epoch=null",
        "callbacks.checkpoint.every_n_batches=1",
    ],
    "accumulated gradients": [
        "experiment=toy",
        "trainer.accumulate_grad_batches=3",
        "callbacks.checkpoint.every_n_batches=1",
    ],
    "two optimizers": [
        "experiment=toy",
        "method=two_optimizers",
        "scheduler=null",
        "callbacks.checkpoint.every_n_batches=1",
    ],
    "no optimizer": ["experiment=walk", "method.pause=0.02", "callbacks.checkpoint.every_n_batches=1"],
    "a chain of three stages": [
        "experiment=chain",
        "stages.parent.method.pause=0.01",
        "stages.parent.stages.grandparent.method.pause=0.01",
        "callbacks.checkpoint.every_n_batches=3",
    ],
}


@pytest.mark.parametrize("overrides", KILLED.values(), ids=KILLED)
def test_killed_and_run_again_it_ends_in_the_same_bits(
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    child: Callable[..., Any],
    records: Records,
) -> None:
    """Three times killed at random moments (21 kills over all cases), then let run to the end."""
    monkeypatch.chdir(tmp_path)
    pause = [] if any("pause" in word for word in overrides) else ["method.pause=0.01"]
    command = ["run", "--config-dir", str(OUTSIDE / "conf"), *overrides, *pause]
    began = time.monotonic()
    assert child(*command, "paths.outputs=ref").status() == 0
    whole = time.monotonic() - began
    moments = np.random.default_rng(len(overrides[0]) + len(overrides)).uniform(0.2, 0.8, size=3)
    for moment in moments:
        again = child(*command, "paths.outputs=out")
        again.process.join(float(moment * whole))
        again.kill()
    assert child(*command, "paths.outputs=out").status() == 0
    expected, found = records("ref"), records("out")
    assert {path.relative_to("ref") for path in expected} == {path.relative_to("out") for path in found}
    for path, record in expected.items():
        twin = Path("out") / path.relative_to("ref")
        assert found[twin]["metrics"] == record["metrics"]
        assert (twin / "metrics.csv").read_bytes() == (path / "metrics.csv").read_bytes()
    left = [path.name for path in Path("out").rglob("*") if path.name.endswith(".tmp") or "writing" in path.name]
    assert not left


def test_interrupted_by_the_keyboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: Callable[..., Any], records: Records
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["run", "--config-dir", str(OUTSIDE / "conf"), "experiment=toy", "method.pause=0.05"]
    interrupted = child(*command)
    interrupted.until(lambda: list(Path().rglob("run.json")))
    interrupted.process.join(0.5)
    assert interrupted.kill(signal.SIGINT) == 130
    ((_, record),) = records().items()
    assert record["status"] == "interrupted"
    assert child("resume", next(iter(records()))).status() == 0
    ((_, record),) = records().items()
    assert record["status"] == "finished"


@pytest.mark.parametrize("moment", ["begun", "written", "ended", "finished"])
def test_interrupted_beside_the_writing_of_a_record(
    moment: str, toy: Toy, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes at any moment: before the first step and after the last, and around the writing itself."""
    write = run_record.write_record
    status = "running" if moment in ("begun", "written") else "finished"

    def interrupted(directory: Path, content: dict[str, Any]) -> None:
        before = moment in ("begun", "ended")
        if content["status"] != status or not before:
            write(directory, content)
        if content["status"] == status:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_record, "write_record", interrupted)
        assert toy("toy").status == 130
    ((_, found),) = records().items()
    assert found["status"] == ("finished" if moment == "finished" else "interrupted"), "what is written is kept"
    assert toy("toy").status == 0
    ((_, found),) = records().items()
    assert (found["status"], found["resumed"]) == ("finished", 0 if moment == "finished" else 1)


def test_python_dash_m(tmp_path: Path) -> None:
    called = subprocess.run(
        [sys.executable, "-m", "replicata", "rum"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert called.returncode == 2
    assert one_line(called.stderr)
    assert "'run'" in called.stderr
