"""Names: words, characters, the authors' folds, leave-one-project-out, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replicata.data.text.characters import Characters
from replicata.data.text.identifiers import split_identifier
from replicata.data.text.names import CHARACTERS, GeneratedNames, Names, Unit
from replicata.errors import UserError
from replicata.streams import Streams

PROJECTS = ("FFmpeg", "LibPNG", "LibTIFF")


def generated(seed: int = 0, **changes: Any) -> GeneratedNames:
    module = GeneratedNames(root="", cache="", **({"projects": PROJECTS} | changes))
    module.streams = Streams(seed)
    module.setup()
    return module


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("av_read_frame2", ["av", "read", "frame", "2"]),
        ("parseXMLFile", ["parse", "XMLFile"]),
        ("readFile2", ["read", "File", "2"]),
        ("TIFFReadDir", ["TIFF", "Read", "Dir"]),
        ("__init", ["init"]),
        ("x264Open", ["x", "264", "Open"]),
        ("_", [""]),
    ],
)
def test_identifiers_are_split(name: str, words: list[str]) -> None:
    assert split_identifier(name) == words


@given(st.text("abzAZ_09", min_size=1, max_size=20))
def test_splitting_loses_underscores_only(name: str) -> None:
    assert "".join(split_identifier(name)) == name.replace("_", "")


@given(st.lists(st.text(CHARACTERS.strip(), max_size=9), min_size=1, max_size=5), st.integers(0, 3))
def test_characters_come_back(texts: list[str], shift: int) -> None:
    alphabet = Characters(CHARACTERS, " ", 12)
    encoded = alphabet.encode(texts, shift)
    assert encoded.shape == (len(texts), 12)
    assert [text[shift:].rstrip() for text in alphabet.decode(encoded)] == texts
    assert alphabet.decode(encoded)[0][:shift].strip() == ""
    assert not alphabet.fits("a" * 13)
    assert not alphabet.fits("a!")


def test_within_every_name_is_tested_once_and_never_trained_on() -> None:
    module = generated()
    assert len(module.units) == 15
    seen = []
    for unit in module.units:
        splits = module.cut(unit)
        place = PROJECTS.index(unit.project)
        assert {int(p) for split in splits.values() for p in split["project"].unique()} == {place}
        assert len(splits["train"]["y"]) + len(splits["test"]["y"]) == int(
            (module.splits["train"]["project"] == place).sum()
        )
        seen.append(splits["test"])
    for key, column in module.splits["train"].items():
        assert torch.equal(torch.cat([split[key] for split in seen]), column)


def test_across_a_project_meets_none_of_its_names_nor_a_name_vulnerable_elsewhere_as_benign() -> None:
    module = generated(protocol="across")
    assert module.units == [Unit(project, place) for place, project in enumerate(PROJECTS)]
    everything = module.splits["train"]
    vulnerable = set(everything["name"][everything["y"] == 1].tolist())
    for unit in module.units:
        splits = module.cut(unit)
        train = splits["train"]
        assert set(splits["test"]["project"].tolist()) == {unit.fold}
        assert not set(train["name"].tolist()) & set(splits["test"]["name"].tolist())
        assert not set(train["name"][train["y"] == 0].tolist()) & vulnerable
        assert bool((train["y"].diff() <= 0).all())  # the vulnerable ones first


def test_a_name_has_one_label_in_a_project() -> None:
    module = generated(projects=["VLC"], benign=400, vulnerable=200)
    rows = module.splits["train"]
    assert not set(rows["name"][rows["y"] == 1].tolist()) & set(rows["name"][rows["y"] == 0].tolist())


def test_a_fold_for_a_network_with_fewer_benign_names_and_noise() -> None:
    whole = generated(projects=["VLC"], fold=3)
    module = generated(projects=["VLC"], fold=3, benign_per_vulnerable=1.0, noise=5)
    train, cut = module.splits["train"], module.cut(Unit("VLC", 3))
    for key, column in cut["test"].items():
        assert torch.equal(module.splits["test"][key], column)
        assert torch.equal(whole.splits["train"][key], cut["train"][key])
    positives = int(cut["train"]["y"].sum())
    assert int(train["y"].sum()) == positives
    assert len(train["y"]) == 2 * positives + 5
    noise = "".join(module.alphabet.decode(train["x"][-5:]))
    assert set(noise) <= set(CHARACTERS)
    assert bool((train["words"][-5:] == -1).all())
    assert len(module.splits["val"]["y"]) == 0
    assert len(generated(projects=["VLC"]).splits["test"]["y"]) == 0


def test_a_fold_to_validate_on_is_not_trained_on() -> None:
    splits = generated(fold=3, val_fold=1).splits
    whole = generated(fold=3).splits
    assert torch.equal(splits["val"]["row"], generated(fold=1).splits["test"]["row"])
    assert torch.equal(splits["test"]["row"], whole["test"]["row"])
    assert set(splits["train"]["row"].tolist()) == set(whole["train"]["row"].tolist()) - set(
        splits["val"]["row"].tolist()
    )


def test_seeds_shuffle_the_folds_and_not_the_names() -> None:
    first, second = generated(projects=["VLC"]), generated(seed=1, projects=["VLC"])
    assert not torch.equal(first.splits["train"]["x"], second.splits["train"]["x"])


def test_wrong_values_are_refused_by_name(tmp_path: Path) -> None:
    for changes, message in (
        ({"projects": ["ffmpeg"]}, "data.projects"),
        ({"projects": []}, "data.projects"),
        ({"projects": ["VLC"], "protocol": "across"}, "data.projects"),
        ({"protocol": "between"}, "data.protocol"),
        ({"folds": 1}, "data.folds"),
        ({"fold": 5}, "data.fold must be between 0 and 4"),
        ({"val_fold": 1}, "data.val_fold"),
        ({"fold": 1, "val_fold": 1}, "data.val_fold"),
        ({"benign_per_vulnerable": 0}, "data.benign_per_vulnerable"),
    ):
        with pytest.raises(ValueError, match=message):
            generated(**changes)
    with pytest.raises(UserError, match=r"data.vocab_size is declared as 65, but the data has 66"):
        generated(vocab_size=65)
    absent = Names(root=str(tmp_path), cache=str(tmp_path), download=False, projects=["VLC"])
    absent.streams = Streams(0)
    with pytest.raises(UserError, match=r"VLC_benign.txt not found; put the file there or set data\.download"):
        absent.setup()
    (tmp_path / "favd_names").mkdir()
    (tmp_path / "favd_names" / "VLC_benign.txt").write_text("main\n")
    with pytest.raises(UserError, match="not the published file"):
        absent.setup()


@pytest.mark.data
def test_real_names(data_root: Path) -> None:
    if not (data_root / "favd_names").is_dir():
        pytest.skip("needs favd_names")
    module = Names(root=str(data_root), cache="", download=False, projects=["LibPNG", "LibTIFF"])
    module.streams = Streams(99)
    module.setup()
    rows = module.splits["train"]
    counts = [
        (int((rows["y"][rows["project"] == p] == 0).sum()), int(rows["y"][rows["project"] == p].sum())) for p in (0, 1)
    ]
    assert counts == [(491, 31), (522, 75)]  # eight of LibTIFF's 530 benign names are vulnerable as well
