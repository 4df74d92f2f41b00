"""Every experiment of the tree, without knowing any: it composes, is checked, runs at smoke scale, repeats its bits.

A new paper is covered by being there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from replicata.run import compose as composing
from replicata.run.app import smoke_overrides
from replicata.run.check import check, check_scalars
from replicata.study.parse import parse
from replicata.study.plan import RunSpec, expand

DIRS = composing.search_dirs()
EXPERIMENTS = dict(composing.experiments(DIRS))
PAPER_SCALE = [f"{name}_paper" for name in EXPERIMENTS if composing.find("experiment", f"{name}_paper", DIRS)]
DATA = Path(os.environ.get("REPLICATA_DATA", "data"))


def arms(name: str, *, smoke: bool) -> list[RunSpec]:
    """One run of every arm and level."""
    study = parse(composing.compose([f"experiment={name}"]).study, name)
    extra = smoke_overrides(EXPERIMENTS[name], DIRS) if smoke else []
    return expand(study, extra, seeds=1)


@pytest.mark.parametrize("name", [*EXPERIMENTS, *PAPER_SCALE])
def test_it_composes_and_is_checked(name: str) -> None:
    config = composing.compose([f"experiment={name}"])
    check_scalars(config)
    check(config)
    for key in ("title", "venue", "url"):
        assert config.paper[key]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_arm_is_checked(name: str) -> None:
    specs = arms(name, smoke=False)
    assert len({spec.arm for spec in specs}) >= 2
    for spec in specs:
        check(composing.compose(list(spec.overrides)))


@pytest.mark.data
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_arm_runs_and_the_method_repeats_its_bits(
    name: str, replicata: Callable[..., Any], tmp_path: Path
) -> None:
    if not DATA.is_dir():
        pytest.skip("needs real data: set REPLICATA_DATA")
    called = replicata("study", name, "--smoke", f"paths.cache={tmp_path}/cache", f"paths.outputs={tmp_path}/one")
    assert called.status == 0, called.err
    found = [json.loads(path.read_text()) for path in (tmp_path / "one").rglob("run.json")]
    assert {record["status"] for record in found} == {"finished"}
    index = json.loads((tmp_path / "one" / name / "study.json").read_text())
    first = Path(tmp_path / "one" / name / index["runs"][0]["directory"])
    assert replicata("verify", first).status == 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_opening_comment_says_what_it_is_and_how_to_run_it(name: str) -> None:
    text = EXPERIMENTS[name].read_text()
    assert text.startswith("# @package _global_\n# ")
    assert f"replicata study {name}" in text
    assert OmegaConf.create(composing.read(EXPERIMENTS[name])).study.claims
