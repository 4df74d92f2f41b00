"""``replicata study`` from end to end on a toy: stages first, reuse, failures named, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OUTSIDE = Path(__file__).parents[1] / "outside"
Records = Callable[..., dict[Path, dict[str, Any]]]


@pytest.fixture
def study(replicata: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``replicata study chain`` with the package outside Replicata."""
    monkeypatch.syspath_prepend(str(OUTSIDE))

    def call(*words: str, experiment: str = "chain") -> Any:
        return replicata("study", experiment, "--config-dir", OUTSIDE / "conf", *words)

    return call


@pytest.fixture
def started(child: Callable[..., Any]) -> Callable[..., Any]:
    """The study in a process that leads a group of its own."""

    def start(*words: str) -> Any:
        return child("study", "chain", "--config-dir", OUTSIDE / "conf", *words)

    return start


def at_work(outputs: str) -> Callable[[], bool]:
    """Whether a run is under way."""
    return lambda: any(Path(outputs).rglob(".holder"))


def numbers(verdicts: dict[str, Any]) -> dict[str, Any]:
    """The arms of a file of verdicts, without the time that their runs took."""
    runs = {arm: [dict(run) for run in found["runs"]] for arm, found in verdicts["arms"].items()}
    assert all(run.pop("seconds") > 0 for found in runs.values() for run in found)
    return {arm: found | {"runs": runs[arm]} for arm, found in verdicts["arms"].items()}


KILLS = {"serial": 10, "local": int(os.environ.get("REPLICATA_KILLS", "1"))}  # each time the workers import torch


def test_a_study_runs_stages_once_names_failures_and_reuses(study: Callable[..., Any], records: Records) -> None:
    called = study("--seeds", "2")
    assert called.status == 1, "the poisoned arm fails"
    found = records()
    names = sorted(record["name"] for record in found.values())
    assert names == ["chain"] * 6 + ["chain/stages/parent"] * 2 + ["chain/stages/parent/stages/grandparent"]
    said, listed = called.err.split("failed runs:\n")
    for seed in (0, 1):
        assert said.count(f"replicata: broken seed {seed} failed: train/loss is not finite at batch 4") == 1
        assert listed.count(f"  broken seed {seed}  loss not finite  train/loss is not finite at batch 4") == 1
    assert "breaks" in called.out
    assert "inconclusive" in called.out
    finished = {path: record for path, record in found.items() if record["status"] == "finished"}
    assert len(finished) == 7
    again = study("--seeds", "2")
    assert again.status == 1
    after = records()
    assert all(after[path] == record for path, record in finished.items()), "nothing finished is repeated"


TROUBLE = {
    "raises seed 0": ("error", "RuntimeError: the third batch is cursed"),
    "killed seed 0": ("killed", "its process was killed by signal 9, SIGKILL (out of memory?)"),
    "diverges seed 0": ("loss not finite", "train/loss is not finite at batch 4; the last good checkpoint is kept."),
}


def test_every_bad_end_is_named_and_stops_nothing_else(study: Callable[..., Any], records: Records) -> None:
    called = study("launcher=local", experiment="troubled")
    assert called.status == 1
    said, listed = called.err.split("failed runs:\n")
    *rows, last = listed.splitlines()
    for (label, (kind, reason)), row in zip(TROUBLE.items(), rows, strict=True):
        assert row.startswith(f"  {label:<15}  {kind:<15}  {reason}")
        assert said.count(f"replicata: {label} failed: {reason}") == 1
    assert last.startswith("replicata: troubled: 3 of 7 runs failed, listed above; the others are kept")
    assert "why: killed seed 0 failed: its process was killed by signal 9" in called.out
    states = sorted(record["status"] for record in records().values())
    assert states == ["failed"] * 2 + ["finished"] * 4 + ["running"]


def test_a_run_is_tried_again_as_often_as_is_said(study: Callable[..., Any], records: Records) -> None:
    once = "study.arms.killed.overrides=['method=doomed','method.end=kill','method.times=1']"
    words = ["--arms", "raises,killed,diverges", "--seeds", "1", "launcher=local", once]
    called = study(*words, "--retries", "1", experiment="troubled")
    assert called.status == 1
    said, listed = called.err.split("failed runs:\n")
    assert said.count("replicata: killed seed 0 (try 1 of 2) failed: ") == 1
    assert said.count("replicata: raises seed 0 (try 1 of 2) failed: ") == 1
    assert said.count("replicata: raises seed 0 (try 2 of 2) failed: ") == 1
    assert [row.split()[0] for row in listed.splitlines()] == ["raises", "diverges", "replicata:"]
    assert "killed seed 0" not in listed
    refused = study("--retries", "-1")
    assert refused.err == "replicata: --retries must be a number of at least 0, got '-1'\n"


def test_claims_are_decided_at_their_scale(study: Callable[..., Any]) -> None:
    for experiment, asked, other in (("scaled", "small", "large"), ("scaled_paper", "large", "small")):
        called = study("--commit-results", "method.sigma=0.2", experiment=experiment)
        assert called.status == 0, called.err
        results = json.loads(Path(f"results/{experiment}.json").read_text())
        assert [claim["id"] for claim in results["claims"]] == ["both", asked]
        assert results["scale"] == ("paper" if experiment.endswith("_paper") else "laptop")
        assert results["overrides"] == ["method.sigma=0.2"]
        refused = study("--claims", other, experiment=experiment)
        assert refused.status == 2
        assert refused.err.startswith(f"replicata: claim {other!r} is decided at ")
        assert study("--claims", asked, "method.sigma=0.2", experiment=experiment).status == 0


def test_dry_run_lists_and_runs_nothing(study: Callable[..., Any], records: Records) -> None:
    called = study("--dry-run", "--arms", "chain,louder")
    assert called.status == 0
    assert len(called.out.splitlines()) == 6
    assert "to do" in called.out
    assert not records()


def test_wrong_flags_are_answered_in_one_line(study: Callable[..., Any], replicata: Callable[..., Any]) -> None:
    for words, offers in ((["--arm", "x"], "--arms"), (["--seeds", "none"], "--seeds"), (["--arms", "chian"], "chain")):
        called = study(*words)
        assert called.status == 2
        assert len(called.err.strip().splitlines()) == 1
        assert offers in called.err
    called = replicata("study", "graph/dagn")
    assert called.status == 2
    assert "graph/dagnn" in called.err


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "kills"), KILLS.items())
def test_killed_again_and_again_the_verdicts_are_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: Callable[..., Any],
    records: Records,
    launcher: str,
    kills: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"launcher={launcher}", "--arms", "chain,louder", "--seeds", "3", "--commit-results"]
    words += ["trainer.max_epochs=2", "optimizer.lr=0.0003", "callbacks.checkpoint.every_n_batches=5"]
    whole = started(*words, "paths.outputs=whole")
    whole.until(at_work("whole"))
    began = time.monotonic()
    assert whole.status() == 0
    took = time.monotonic() - began
    committed = Path("results/chain.json")
    verdicts = json.loads(committed.read_text())
    committed.unlink()
    seen: dict[Path, str] = {}
    for after in np.random.default_rng(1).uniform(0, took / 12, size=kills):
        cut = started(*words, "paths.outputs=cut")
        cut.until(at_work("cut"))
        time.sleep(after)
        assert cut.kill(group=True) == -signal.SIGKILL, "killed in the middle"
        for path in Path("cut").rglob(".holder"):  # the next one must not be taken for this one
            path.unlink()
        seen |= {path: record["ended"] for path, record in records("cut").items() if record["status"] == "finished"}
    assert started(*words, "paths.outputs=cut").status() == 0
    after_all = json.loads(committed.read_text())
    assert after_all["claims"] == verdicts["claims"]
    assert numbers(after_all) == numbers(verdicts)
    found = records("cut")
    assert {path.relative_to("cut") for path in found} == {path.relative_to("whole") for path in records("whole")}
    assert all(record["status"] == "finished" for record in found.values()), "none is lost"
    assert {path: found[path]["ended"] for path in seen} == seen, "and none that was finished is repeated"


def test_two_studies_at_once_do_each_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: Callable[..., Any], records: Records
) -> None:
    monkeypatch.chdir(tmp_path)
    both = [started("--arms", "chain", "--seeds", "2", "method.pause=0.01") for _ in range(2)]
    assert [one.status() for one in both] == [0, 0]
    found = records()
    assert all(record["status"] == "finished" for record in found.values())
    assert not any("replaced" in path.parts for path in found)
    assert all(record["resumed"] == 0 for record in found.values())


def test_results_are_stale_once_the_config_has_changed(
    study: Callable[..., Any], replicata: Callable[..., Any], tmp_path: Path
) -> None:
    assert study("--arms", "chain,louder", "--seeds", "3", "--commit-results").status == 0
    fresh = replicata("check-results", "chain", "--config-dir", OUTSIDE / "conf")
    assert "broken" in fresh.out or "up to date" in fresh.out
    committed = Path("results/chain.json")
    committed.write_text(committed.read_text().replace('"hash": "', '"hash": "0'))
    stale = replicata("check-results", "chain", "--config-dir", OUTSIDE / "conf")
    assert stale.status == 1
    assert "stale" in stale.err
