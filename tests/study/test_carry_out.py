"""Carrying out a study: stages first, failures named, tried again or not, without Hydra and without a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from replicata.run.failures import Failed, Failure, listed
from replicata.run.record import write_record
from replicata.study.plan import RunSpec
from replicata.study.run import Place, Planned, carry_out

KILLED = Failure("its process was killed by signal 9, SIGKILL (out of memory?)", 1, "killed")
RAISED = Failure("RuntimeError: no", 1, "error")
DIVERGED = Failure("train/loss is not finite at batch 4", 1, "diverged")
MISTAKE = Failure("method.sigma must be >= 0", 2, "mistake")


class Launcher:
    """Finishes every run but those that are to fail, as often as is said: ``{"b seed 0": [failure, ...]}``."""

    def __init__(self, **ends: list[Failure]) -> None:
        self.ends = {label.replace("_", " "): list(failures) for label, failures in ends.items()}
        self.batches: list[list[str]] = []

    def __call__(self, batch: Sequence[Sequence[str]], labels: Sequence[str]) -> list[Any]:
        self.batches.append(list(labels))
        return [self.one(words, label) for words, label in zip(batch, labels, strict=True)]

    def one(self, words: Sequence[str], label: str) -> Any:
        left = self.ends.get(label.partition(" (")[0])
        if left:
            return left.pop(0)
        Path(words[0]).mkdir(parents=True, exist_ok=True)
        write_record(Path(words[0]), {"status": "finished", "code": "c"})
        return {}


def plan(root: Path, arms: Sequence[str] = ("a", "b", "c"), stages: Sequence[str] = ()) -> list[Planned]:
    """A run for each arm; all share the stages, which are given as dotted paths."""
    below = [
        (name.count(".") + 1, Place(root / name, name, "c", (str(root / name), f"only={name}"), name))
        for name in sorted(stages, key=lambda name: -name.count("."))
    ]
    return [
        Planned(RunSpec(arm, (), 0, ()), Place(root / arm, arm, "c", (str(root / arm),)), tuple(below)) for arm in arms
    ]


def labels(failed: dict[Path, Failed]) -> dict[str, str]:
    return {one.label: one.failure.message for one in failed.values()}


def test_stages_come_first_and_once(tmp_path: Path) -> None:
    launcher = Launcher()
    assert carry_out(plan(tmp_path, stages=["p", "p.g", "q"]), launcher) == {}
    assert launcher.batches == [
        ["stage p.g of a seed 0"],
        ["stage p of a seed 0", "stage q of a seed 0"],
        ["a seed 0", "b seed 0", "c seed 0"],
    ]
    assert carry_out(plan(tmp_path, stages=["p", "p.g", "q"]), launcher) == {}
    assert len(launcher.batches) == 3, "all of it is done"


def test_what_needs_a_failed_stage_is_not_started(tmp_path: Path) -> None:
    launcher = Launcher(**{"stage_p.g_of_a_seed_0": [DIVERGED]})
    planned = plan(tmp_path, stages=["p", "p.g", "q"])
    failed = carry_out(planned, launcher)
    assert launcher.batches == [["stage p.g of a seed 0"], ["stage q of a seed 0"]], "q does not need it"
    assert list(labels(failed)) == ["stage p.g of a seed 0", "stage p of a seed 0", "a seed 0", "b seed 0", "c seed 0"]
    assert labels(failed)["b seed 0"] == f"not started, its stage failed: {DIVERGED.message}"
    assert {one.failure.kind for one in failed.values()} == {"diverged"}


@pytest.mark.parametrize(("end", "again"), [(KILLED, True), (RAISED, True), (DIVERGED, False), (MISTAKE, False)])
def test_only_what_may_pass_is_tried_again(tmp_path: Path, end: Failure, again: bool) -> None:
    launcher = Launcher(b_seed_0=[end])
    failed = carry_out(plan(tmp_path), launcher, retries=1)
    assert labels(failed) == ({} if again else {"b seed 0": end.message})
    first = [f"{arm} seed 0 (try 1 of 2)" for arm in "abc"]
    assert launcher.batches == [first, ["b seed 0 (try 2 of 2)"]][: 1 + again]


def test_retries_come_to_an_end(tmp_path: Path) -> None:
    launcher = Launcher(b_seed_0=[RAISED, KILLED, KILLED, KILLED], stage_p_of_a_seed_0=[KILLED])
    failed = carry_out(plan(tmp_path, stages=["p"]), launcher, retries=2)
    assert labels(failed) == {"b seed 0": KILLED.message}
    assert [len(batch) for batch in launcher.batches] == [1, 1, 3, 1, 1]
    assert launcher.batches[-1] == ["b seed 0 (try 3 of 3)"]
    assert (tmp_path / "c" / "run.json").exists()


def test_stop_starts_nothing_more(tmp_path: Path) -> None:
    launcher = Launcher(b_seed_0=[KILLED])
    assert labels(carry_out(plan(tmp_path), launcher, on_error="stop")) == {"b seed 0": KILLED.message}
    assert launcher.batches == [["a seed 0"], ["b seed 0"]]
    again = Launcher(b_seed_0=[KILLED])
    assert carry_out(plan(tmp_path), again, on_error="stop", retries=1) == {}
    assert [len(batch) for batch in again.batches] == [1, 1, 1], "tried again before the next one starts"


def test_a_busy_run_is_waited_for_and_is_no_try(tmp_path: Path) -> None:
    launcher = Launcher(b_seed_0=[Failure("in use", 2, "busy")] * 3)
    assert carry_out(plan(tmp_path), launcher, pause=0.0) == {}
    assert [len(batch) for batch in launcher.batches] == [3, 1, 1, 1]


def test_failed_runs_are_listed_in_columns() -> None:
    failed = [Failed("a seed 0", DIVERGED), Failed("stage p of long data=cora seed 10", KILLED)]
    assert listed(failed).splitlines() == [
        "failed runs:",
        "  a seed 0                           loss not finite  train/loss is not finite at batch 4",
        f"  stage p of long data=cora seed 10  killed           {KILLED.message}",
    ]
    narrow = listed(failed, 100).splitlines()
    assert len(narrow) == 4
    assert narrow[3] == " " * 54 + "(out of memory?)"
