"""COCO read from files in its layout: scaling, mirroring, padding, crowds, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from replicata.data.vision.coco import COCO
from replicata.errors import UserError
from replicata.streams import Streams

SIZES = [(40, 20), (30, 60), (50, 50), (20, 20), (40, 40)]


def write(root: Path) -> None:
    for split in ("train", "val"):
        (root / "coco" / f"{split}2017").mkdir(parents=True)
        images, annotations = [], []
        for number, (width, height) in enumerate(SIZES):
            name = f"{number:03}.jpg"
            Image.new("RGB", (width, height), (255, 255, 255)).save(root / "coco" / f"{split}2017" / name)
            images.append({"id": 10 + number, "file_name": name, "width": width, "height": height})
        for image, category, box, crowd in [
            (10, 7, [4, 5, 10, 5], 0),
            (10, 3, [0, 0, 40, 20], 1),
            (11, 3, [3, 6, 9, 12], 0),
            (12, 7, [0, 0, 5, 5], 0),
            (13, 3, [1, 1, 8, 8], 1),  # nothing but a crowd
            (14, 3, [1, 1, 0, 8], 0),  # nothing but an empty box
        ]:
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box,
                                "area": box[2] * box[3], "iscrowd": crowd})  # fmt: skip
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": [{"id": 7}, {"id": 3}]}
        (root / "coco" / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def coco(root: Path, **given_: Any) -> COCO:
    settings = {"short": [40, 40], "long": 60, "divisor": 16, "num_classes": 2, "batch_size": 2, "workers": 0}
    data = COCO(str(root), mean=[0.5] * 3, std=[0.5] * 3, **(settings | given_))
    data.streams = Streams(0)
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )  # type: ignore[assignment]
    return data


@pytest.fixture
def data(tmp_path: Path) -> COCO:
    write(tmp_path)
    found = coco(tmp_path)
    found.setup()
    return found


def test_evaluation_scales_pads_and_keeps_crowds(data: COCO) -> None:
    first = next(iter(data.test_dataloader()))
    # 40x20 becomes 60x30, since the longer side may not exceed 60; 30x60 stays; both are padded to 64x64.
    assert first["x"].shape == (2, 3, 64, 64)
    assert first["size"].tolist() == [[30, 60], [60, 30]]
    assert first["boxes"][0].tolist() == [[6, 7.5, 21, 15], [0, 0, 60, 30]]
    assert first["labels"].tolist() == [[1, 0], [0, -1]]
    assert first["crowd"].tolist() == [[False, True], [False, False]]
    assert first["index"].tolist() == [0, 1]
    assert bool((first["x"][0, :, :30, :60] == 1).all())  # white, standardised
    assert not first["x"][0, :, 30:].any()
    assert sum(len(batch["x"]) for batch in data.val_dataloader()) == 5


def test_training_leaves_out_crowds_and_images_without_boxes(data: COCO) -> None:
    assert data.readers["train"].ids == [0, 1, 2]
    with_boxes = [data.readers["train"](row) for row in range(3)]
    assert [len(example["labels"]) for example in with_boxes] == [1, 1, 1]
    assert not any(bool(example["crowd"].any()) for example in with_boxes)


def test_mirrored_boxes_stay_on_their_things(data: COCO) -> None:
    reader = data.readers["train"]
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (4, 5, 14, 10))
    image.save(Path(reader.images.root) / "000.jpg", quality=100)
    seen: set[float] = set()
    for seed in range(8):
        torch.manual_seed(seed)
        example = reader(0)
        x1, y1, x2, y2 = example["boxes"][0].tolist()
        seen.add(x1)
        inside = example["x"][:, round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2]
        assert float(inside.mean()) > 0.5 > -0.5 > float(example["x"].mean())
    assert seen == {6.0, 39.0}


def test_sizes_are_drawn_between_the_ends(tmp_path: Path) -> None:
    write(tmp_path)
    data = coco(tmp_path, short=[20, 40], long=100)
    data.setup()
    torch.manual_seed(0)
    sides = {data.readers["train"](2)["x"].shape[1] for _ in range(20)}
    assert len(sides) > 5
    assert min(sides) >= 20
    assert max(sides) <= 40
    assert data.readers["val"](2)["x"].shape[1] == 30


def batches(data: COCO, start: int = 0) -> list[dict[str, Tensor]]:
    loader = data.train_dataloader()
    loader.load_state_dict({"epoch": 0, "position": start})
    return list(loader)


def test_a_resumed_epoch_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    write(tmp_path)
    data = coco(tmp_path, batch_size=1)
    data.setup()
    whole, rest = batches(data), batches(data, 1)
    assert len(whole) == 3
    for one, other in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train2017 is missing"):
        coco(tmp_path).setup()
    write(tmp_path)
    with pytest.raises(UserError, match=r"num_classes is declared as 80, but the data has 2"):
        coco(tmp_path, num_classes=80).setup()
    with pytest.raises(ValueError, match=r"data\.short"):
        coco(tmp_path, short=[50, 40])
    with pytest.raises(ValueError, match=r"data\.divisor"):
        coco(tmp_path, divisor=0)
