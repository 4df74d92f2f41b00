"""Scenes: boxes fit their things, splits share no images, draws depend on seed and number alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from replicata.data.vision.scenes import DetectionScenes, SceneComposer
from replicata.errors import UserError
from replicata.streams import Streams


def scenes(seed: int = 0, **given_: Any) -> DetectionScenes:
    facts = {"in_shape": [1, 64, 64], "num_classes": 10, "max_objects": 3, "size": 64, "objects": [1, 3]}
    sizes = {"n_train": 6, "n_val": 4, "n_test": 4, "sides": [14, 32]}
    data = DetectionScenes("digits", root="", cache="", **(facts | sizes | given_))
    data.streams = Streams(seed)
    return data


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_boxes_are_tight_whole_and_apart(seed: int) -> None:
    """Sprites are full squares, so their boxes are known from the canvas, where one thing stands alone."""
    composer = SceneComposer(size=64, objects=(1, 4), sides=(10.0, 30.0), background=0.05)
    sprites, rows = torch.ones(2, 8, 8), [torch.tensor([0]), torch.tensor([1])]
    canvas, boxes, labels = composer.compose(sprites, rows, np.random.default_rng(seed))
    assert 1 <= len(labels) <= 4
    assert set(labels.tolist()) <= {0, 1}
    assert float(boxes.min()) >= 0
    assert float(boxes.max()) <= 64
    overlap = box_iou(boxes, boxes).fill_diagonal_(0)
    assert float(overlap.max()) <= 0.3
    covered = torch.zeros(64, 64, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes.int().tolist():
        assert 10 * np.exp(-0.175) - 1 <= x2 - x1 <= 30 * np.exp(0.175) + 1
        covered[y1:y2, x1:x2] = True
    assert torch.equal(canvas > 0.1, covered)


def test_faint_pixels_belong_to_no_box() -> None:
    sprite = torch.full((1, 20, 20), 0.05)
    sprite[0, 5:15, 8:12] = 1.0
    composer = SceneComposer(size=64, objects=(1, 1), sides=(20.0, 20.0), ratio=0.0, background=0.0)
    canvas, boxes, _ = composer.compose(sprite, [torch.tensor([0])], np.random.default_rng(0))
    x1, y1, x2, y2 = boxes[0].int().tolist()
    assert (x2 - x1, y2 - y1) == (4, 10)
    assert bool((canvas[y1:y2, x1:x2] == 1).all())


def test_sides_and_ratios_are_drawn_as_declared() -> None:
    composer = SceneComposer(size=96, objects=(1, 1))
    rng, sprite = np.random.default_rng(0), torch.ones(1, 8, 8)
    boxes = torch.cat([composer.compose(sprite, [torch.tensor([0])], rng)[1] for _ in range(300)])
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    side, ratio = (width * height).sqrt().log(), (width / height).log()
    assert float(side.mean()) == pytest.approx((np.log(14) + np.log(48)) / 2, abs=0.06)
    assert float(side.std()) == pytest.approx((np.log(48) - np.log(14)) / np.sqrt(12), abs=0.04)
    assert abs(float(ratio.mean())) < 0.05
    assert float(ratio.abs().max()) < 0.35 + 0.1  # rounding to whole pixels


def test_scenes_depend_on_seed_and_number_alone() -> None:
    few, many, other = scenes(), scenes(n_train=9), scenes(seed=1)
    for data in (few, many, other):
        data.setup()
    for name, column in few.splits["train"].items():
        assert torch.equal(column, many.splits["train"][name][:6])
        assert torch.equal(few.splits["test"][name], many.splits["test"][name])
    assert not torch.equal(few.splits["train"]["x"], other.splits["train"]["x"])
    assert not torch.equal(few.splits["val"]["x"][:4], few.splits["test"]["x"][:4])
    assert few.fingerprint != other.fingerprint


def test_splits_are_made_of_different_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []

    def note(self: SceneComposer, sprites: Any, rows: Any, rng: Any) -> Any:
        seen.append({hash(sprites[row].numpy().tobytes()) for own in rows for row in own.tolist()})
        return torch.zeros(64, 64), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)

    monkeypatch.setattr(SceneComposer, "compose", note)
    scenes(n_train=1, n_val=1, n_test=1).setup()
    train, val, test = seen
    assert not train & val
    assert not train & test
    assert not val & test


def test_batches_are_floats_with_padding() -> None:
    data = scenes()
    data.setup()
    batch = data.transform({name: column[:3] for name, column in data.splits["train"].items()})
    assert batch["x"].dtype == torch.float32
    assert float(batch["x"].max()) <= 1
    absent = batch["labels"] < 0
    assert not batch["boxes"][absent].any()
    assert bool(((batch["boxes"][..., 2:] - batch["boxes"][..., :2]) > 0).all(2)[~absent].all())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"objects": [0, 3]}, "data.objects"),
        ({"sides": [14, 80]}, "data.sides"),
        ({"n_val": 0}, "data.n_train, n_val and n_test"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        scenes(**wrong)


def test_wrong_facts_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.max_objects is declared as 4"):
        scenes(max_objects=4).setup()
    with pytest.raises(ValueError, match=r"data\.source must be one of"):
        DetectionScenes("cats", root="", cache="", in_shape=[1, 8, 8], num_classes=2, max_objects=1)  # type: ignore[arg-type]
