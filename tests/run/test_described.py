"""What an experiment says, read without composing it."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from replicata.run import compose as composing

DIRS = composing.search_dirs()


@pytest.mark.parametrize("name", composing.choices("experiment", DIRS))
def test_paper_and_study_are_those_of_the_composed_config(name: str) -> None:
    composed = composing.compose([f"experiment={name}"])
    said = composing.described(name, DIRS)
    for key in ("paper", "study"):
        assert said.get(key) == OmegaConf.to_container(composed, resolve=False).get(key)  # type: ignore[union-attr]


def test_bases_merge_in_the_order_of_the_defaults(tmp_path: Path) -> None:
    folder = tmp_path / "experiment" / "a"
    folder.mkdir(parents=True)
    (folder / "base.yaml").write_text("study: {seeds: 5, arms: {x: [], y: []}, claims: [1]}\npaper: {title: T}\n")
    (folder / "after.yaml").write_text("defaults: [a/base, {override /data: d}]\nstudy: {seeds: 9, arms: {y: [z=1]}}\n")
    (folder / "before.yaml").write_text("defaults: [_self_, /experiment/a/base@_global_]\nstudy: {seeds: 9, claims: 0}")
    after = composing.described("a/after", [tmp_path])
    assert after["study"] == {"seeds": 9, "arms": {"x": [], "y": ["z=1"]}, "claims": [1]}
    assert after["paper"] == {"title": "T"}
    assert composing.described("a/before", [tmp_path])["study"]["seeds"] == 5
    assert composing.described("a/none", [tmp_path]) == {}
