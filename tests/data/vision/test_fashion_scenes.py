"""Scenes of two coloured things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from replicata.data.text.scene_captions import OPPOSITE
from replicata.data.vision.fashion_scenes import COLOURS, FashionScenes, first_of_each, keys, paint, places
from replicata.errors import UserError
from replicata.streams import Stream, Streams

FACTS = {"in_shape": [3, 32, 32], "vocab_size": 42, "num_concepts": 48, "num_keys": 4512}
SIZES = {"n_train": 400, "n_val": 60, "n_test": 60, "n_single": 96}


def scenes(seed: int = 0, source: Any = "digits", root: Path | str = "", **changes: Any) -> FashionScenes:
    module = FashionScenes(source, root=str(root), cache=str(root), download=False, **(FACTS | SIZES | changes))
    module.streams = Streams(seed)
    module.prepare_data()
    module.setup()
    return module


@pytest.fixture(scope="module")
def made() -> FashionScenes:
    return scenes(skew=1.0)


def test_one_seed_gives_the_same_tensors_and_another_others(made: FashionScenes) -> None:
    again = scenes(skew=1.0)
    assert again.fingerprint == made.fingerprint
    assert all(torch.equal(again.zero_shot[name], made.zero_shot[name]) for name in made.zero_shot)
    assert scenes(1, skew=1.0).fingerprint != made.fingerprint


def test_evaluation_has_different_keys_and_captions_that_say_all(made: FashionScenes) -> None:
    for name in ("val", "test"):
        split = made.splits[name]
        assert len(split["key"].unique()) == 60
        assert split["tokens"].shape == (60, 4, made.captions.length)
        assert all(" and " not in made.captions.words(row) for row in split["tokens"].flatten(0, 1))
    train = made.splits["train"]
    assert train["tokens"].shape[:2] == (400, 1)
    partial = sum(" and " in made.captions.words(row) for row in train["tokens"][:, 0])
    assert 50 < partial < 110  # a fifth


def test_captions_and_keys_are_of_the_same_scene(made: FashionScenes) -> None:
    """The key is rebuilt from the words of the first template."""
    colours, nouns = list(COLOURS), list(made.nouns)
    for row, key, concept in zip(*(made.splits["test"][name] for name in ("tokens", "key", "concept")), strict=True):
        words = made.captions.words(row[0]).split()
        relation = ["left", "right", "above", "below"].index(words[3])
        pairs = [(words[1], words[2]), (words[-2], words[-1])]
        named = torch.tensor([[colours.index(colour) * 8 + nouns.index(noun) for colour, noun in pairs]])
        assert torch.equal(named[0], concept)
        assert int(keys(named, torch.tensor([relation]), 48)) == int(key)


@given(st.integers(0, 47), st.integers(0, 47), st.integers(0, 3))
def test_a_scene_said_from_the_other_end_has_the_same_key(first: int, second: int, relation: int) -> None:
    if first == second:
        return
    one = keys(torch.tensor([[first, second]]), torch.tensor([relation]), 48)
    other = keys(torch.tensor([[second, first]]), torch.tensor([OPPOSITE[relation]]), 48)
    assert torch.equal(one, other)


def test_there_are_as_many_keys_as_scenes() -> None:
    grid = torch.cartesian_prod(*[torch.arange(48)] * 2, torch.arange(4))
    grid = grid[grid[:, 0] != grid[:, 1]]
    found = keys(grid[:, :2], grid[:, 2], 48)
    assert torch.equal(found.unique(), torch.arange(4512))
    assert set(torch.bincount(found).tolist()) == {2}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_first_of_each(values: list[int]) -> None:
    expected = [place for place, value in enumerate(values) if value not in values[:place]]
    assert first_of_each(torch.tensor(values)).tolist() == expected


def test_things_lie_where_the_relation_says() -> None:
    relation = torch.arange(4).repeat(50)
    first, second = places(relation, Stream(0)).unbind(1)
    axis = torch.where(relation < 2, 1, 0)[:, None]
    apart = (first - second).gather(1, axis)[:, 0]
    assert (apart[relation % 2 == 0] <= -12).all()
    assert (apart[relation % 2 == 1] >= 12).all()
    across = (first - second).gather(1, 1 - axis)
    assert across.abs().max() <= 4
    assert (first - second).unique().numel() > 8


def test_painting_equals_a_loop() -> None:
    stream = Stream(3)
    sprites = torch.rand(5, 2, 16, 16, generator=stream.torch)
    tints = torch.rand(5, 2, 3, generator=stream.torch)
    centre = torch.randint(6, 27, (5, 2, 2), generator=stream.torch)
    painted = paint(sprites, tints, centre, Stream(4))
    background = paint(torch.zeros(5, 1, 16, 16), torch.zeros(5, 1, 3), centre[:, :1], Stream(4))
    for row in range(5):
        expected = background[row].float() / 255
        for thing in range(2):
            top, left = (centre[row, thing] - 8).tolist()
            for y in range(max(0, top), min(32, top + 16)):
                for x in range(max(0, left), min(32, left + 16)):
                    pixel = sprites[row, thing, y - top, x - left] * tints[row, thing]
                    expected[:, y, x] = torch.maximum(expected[:, y, x], pixel)
        assert (painted[row].float() / 255 - expected).abs().max() < 0.0041  # half a byte, twice


def test_colours_are_seen(made: FashionScenes) -> None:
    single = made.zero_shot
    red, green = (single["y"] // 8 == number for number in (0, 1))
    mean = single["image"].amax((2, 3))
    assert (mean[red][:, 0] > mean[red][:, 1] + 0.3).all()
    assert (mean[green][:, 1] > mean[green][:, 0] + 0.3).all()
    assert single["prompts"].shape == (48, 3)


def shares(module: FashionScenes) -> Tensor:
    return torch.bincount(module.splits["train"]["concept"].flatten(), minlength=48).double() / 800


def test_skew_makes_some_concepts_frequent(made: FashionScenes) -> None:
    skewed, even = shares(made).sort().values, shares(scenes()).sort().values
    assert skewed[-1] > 0.12
    assert even[-1] < 0.05
    most = [int(module.splits["train"]["concept"].mode().values[0]) for module in (made, scenes(1, skew=1.0))]
    assert most[0] != most[1]


def test_log_frequency_is_that_of_the_training_scenes(made: FashionScenes) -> None:
    logs = shares(made).clamp_min(1 / 800).log()
    for split in made.splits.values():
        torch.testing.assert_close(
            split["log_frequency"].double(), logs[split["concept"]].mean(1), rtol=1e-5, atol=1e-6
        )


def test_batches_are_floats(made: FashionScenes) -> None:
    batch = made.transform({name: column[:3] for name, column in made.splits["train"].items()})
    assert batch["image"].dtype == torch.float32
    assert 0 <= float(batch["image"].min()) < float(batch["image"].max()) <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"source": "cats"}, "data.source"), ({"skew": -1.0}, "data.skew"), ({"n_val": 0}, "data.n_val")],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes(**changes)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.vocab_size is declared as 40, but the data has 42"):
        scenes(vocab_size=40)
    with pytest.raises(UserError, match=r"at most 2256"):
        scenes(n_val=3000)


@pytest.mark.data
def test_garments_of_the_splits_are_different_images(data_root: Path) -> None:
    module = scenes(source="fashion_mnist", root=data_root, n_train=20, n_val=20, n_test=20, n_single=5)
    assert module.splits["train"]["image"].float().mean() > 10
    rows = module.rows
    assert rows["train"][0] != rows["val"][0] == rows["test"][0]
    assert rows["val"][2] == rows["test"][1]
