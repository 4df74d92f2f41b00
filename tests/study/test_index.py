"""The index of a study's runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from replicata.errors import UserError
from replicata.study.index import FILE, Entry, Index


def entry(folder: Path, arm: str = "dagnn", seed: int = 0, code: str = "c") -> Entry:
    return Entry(arm, (("data", "cora"),), seed, folder / f"h-{arm}" / f"seed{seed}", f"h-{arm}", code)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    index = Index("graph/dagnn", ("trainer.max_epochs=2",), (entry(tmp_path), entry(tmp_path, seed=1)))
    index.write(tmp_path / FILE)
    assert Index.read(tmp_path / FILE) == index
    assert index.entries[1].label == "dagnn data=cora seed 1"


def test_an_empty_index_is_read(tmp_path: Path) -> None:
    Index("graph/dagnn", (), ()).write(tmp_path / FILE)
    assert Index.read(tmp_path / FILE) == Index("graph/dagnn", (), ())


def test_no_file_is_no_index(tmp_path: Path) -> None:
    assert Index.read(tmp_path / FILE) is None


def test_the_folder_can_be_moved(tmp_path: Path) -> None:
    old = tmp_path / "old"
    Index("graph/dagnn", (), (entry(old),)).write(old / FILE)
    old.rename(tmp_path / "new")
    found = Index.read(tmp_path / "new" / FILE)
    assert found is not None
    assert found.entries[0].directory == tmp_path / "new" / "h-dagnn" / "seed0"


def test_a_directory_elsewhere_is_kept(tmp_path: Path) -> None:
    Index("graph/dagnn", (), (entry(tmp_path / "b"),)).write(tmp_path / "a" / FILE)
    found = Index.read(tmp_path / "a" / FILE)
    assert found is not None
    assert found.entries[0].directory == tmp_path / "b" / "h-dagnn" / "seed0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ('{"schema": 99}', "no study index of this version"),
        ('{"schema": 1, "experiment": "x", "overrides": [], "runs": [{"arm": "a"}]}', "is damaged"),
        ('{"schema": 1, "experiment": "x", "overrides": [], "runs": 3}', "is damaged"),
    ],
)
def test_a_damaged_index_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=said):
        Index.read(tmp_path / FILE)


def test_joined_replaces_the_arm_and_keeps_the_others(tmp_path: Path) -> None:
    index = Index("graph/dagnn", (), (entry(tmp_path), entry(tmp_path, "gcn")))
    joined = index.joined([entry(tmp_path, code="new"), entry(tmp_path, "mlp")])
    assert [(found.arm, found.code) for found in joined.entries] == [("gcn", "c"), ("dagnn", "new"), ("mlp", "c")]


def test_joined_drops_seeds_that_are_not_planned_now(tmp_path: Path) -> None:
    index = Index("graph/dagnn", (), tuple(entry(tmp_path, seed=seed) for seed in range(3)))
    new = replace(entry(tmp_path), hash="h-new")
    assert index.joined([new]).entries == (new,)
