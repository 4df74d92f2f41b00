"""The commands beside ``run``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Command = Callable[..., Any]


def test_list_names_the_papers(replicata: Command) -> None:
    lines = replicata("list").out.splitlines()
    assert any(line.startswith("graph/dagnn") and "Towards Deeper Graph Neural Networks" in line for line in lines)
    assert all(line.startswith("graph/") for line in replicata("list", "graph").out.splitlines())
    wrong = replicata("list", "grahp")
    assert wrong.status == 2
    assert "'graph'" in wrong.err


def test_show_tells_what_a_paper_claims_and_how_to_run_it(replicata: Command) -> None:
    out = replicata("show", "graph/dagnn").out
    for word in ("KDD", "gcn_l16", "deep_beats_coupled", "replicata run experiment=graph/dagnn"):
        assert word in out
    assert replicata("show", "graph/dagn").status == 2


def test_doctor_looks_at_the_machine(replicata: Command) -> None:
    called = replicata("doctor")
    assert called.status == 0
    for word in ("torch", "cores", "threads", "wandb", "MNIST", "Cora"):
        assert word in called.out


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("replicata ru", "run"),
        ("replicata show ", "graph/dagnn"),
        ("replicata run experiment=", "experiment=adaptive/mip"),
        ("replicata run data=vision/", "data=vision/digits"),
        ("replicata run trainer.max_e", "trainer.max_epochs="),
    ],
)
def test_shell_completion(replicata: Command, monkeypatch: pytest.MonkeyPatch, line: str, offers: str) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert offers in replicata("-sc", "query=bash").out.split()


def test_new_writes_files_that_run_lint_and_test(tmp_path: Path) -> None:
    """In a copy of the checkout: the scaffold composes, runs, and passes its own test."""
    copy = tmp_path / "copy"
    copy.mkdir()
    subprocess.run(["cp", "-r", ROOT / "src", ROOT / "configs", ROOT / "pyproject.toml", copy], check=True)
    env = {"PYTHONPATH": str(copy / "src"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=copy, env=env, capture_output=True, text=True, check=False
        )

    made = python("-m", "replicata", "new", "graph/made_up")
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.splitlines()) == 6
    assert python("-m", "replicata", "new", "graph/made_up").returncode == 2, "nothing is overwritten"
    ran = python("-m", "replicata", "run", "experiment=graph/made_up", "--smoke")
    assert ran.returncode == 0, ran.stderr
    paper = python("-m", "replicata", "run", "experiment=graph/made_up_paper", "--cfg", "job")
    assert paper.returncode == 0, paper.stderr
    tested = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/methods/graph/test_made_up.py")
    assert tested.returncode == 0, tested.stdout
    linted = python("-m", "ruff", "check", "src/replicata/methods/graph/made_up.py")
    assert linted.returncode == 0, linted.stdout
