"""VOC's annotations, and BCCD read from a folder, an archive, and the real files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from replicata.data.vision.voc import BCCD, padded, read_voc
from replicata.errors import UserError
from replicata.streams import Streams

ITEM = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def annotation(*objects: tuple[Any, ...]) -> str:
    items = "".join(ITEM.format(*item) for item in objects)
    return f"<annotation><size><width>64</width><height>48</height></size>{items}</annotation>"


def write(folder: Path) -> Path:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(f"cell{number}\n")
        Image.new("RGB", (64, 48), (200, 40 * number, 0)).save(folder / "JPEGImages" / f"cell{number}.jpg")
        objects = [("RBC", 8, 12, 24, 36), ("WBC", 0, 0, 64, 48), ("RBC", 5, 5, 5, 9)][: 3 - number]
        (folder / "Annotations" / f"cell{number}.xml").write_text(annotation(*objects))
    return folder


def bccd(root: Path, **given_: Any) -> BCCD:
    facts = {"size": [32, 24], "in_shape": [3, 24, 32], "num_classes": 3, "max_objects": 2}
    data = BCCD(root=str(root), cache=str(root / "cache"), **(facts | {"download": False} | given_))
    data.streams = Streams(0)
    return data


def test_boxes_are_scaled_padded_and_without_empty_ones(tmp_path: Path) -> None:
    write(tmp_path / "bccd")
    data = bccd(tmp_path)
    data.prepare_data()
    data.setup()
    train, test = data.splits["train"], data.splits["test"]
    assert train["x"].shape == (1, 3, 24, 32)
    assert train["boxes"][0].tolist() == [[4, 6, 12, 18], [0, 0, 32, 24]]
    assert train["labels"].tolist() == [[0, 1]]
    assert test["labels"].tolist() == [[0, -1]]
    assert not test["boxes"][0, 1].any()
    colour = data.transform({"x": train["x"]})["x"][0].mean((1, 2))
    torch.testing.assert_close(colour, torch.tensor([200.0, 0.0, 0.0]) / 255, atol=0.02, rtol=0)


def test_an_archive_is_unpacked_into_the_cache(tmp_path: Path) -> None:
    write(tmp_path / "made" / "BCCD_Dataset-master" / "BCCD")
    with zipfile.ZipFile(tmp_path / "bccd.zip", "w") as packed:
        for path in (tmp_path / "made").rglob("*"):
            packed.write(path, path.relative_to(tmp_path / "made"))
    data = bccd(tmp_path)
    data.prepare_data()
    assert (tmp_path / "cache" / "bccd" / "ImageSets").is_dir()
    data.setup()
    assert len(data.splits["val"]["x"]) == 1


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bccd\.zip not found"):
        bccd(tmp_path).prepare_data()
    (tmp_path / "bccd.zip").write_bytes(b"no archive")
    with pytest.raises(UserError, match="is damaged"):
        bccd(tmp_path).prepare_data()
    folder = write(tmp_path / "bccd")
    (folder / "JPEGImages" / "cell1.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cell1\.jpg is missing or damaged"):
        bccd(tmp_path).setup()
    (folder / "Annotations" / "cell0.xml").write_text(annotation(("ABC", 1, 1, 4, 4)))
    with pytest.raises(UserError, match="names 'ABC'"):
        bccd(tmp_path).setup()
    for content in ("<annotation>", "<annotation></annotation>"):
        (folder / "Annotations" / "cell0.xml").write_text(content)
        with pytest.raises(UserError, match="no annotation of PASCAL VOC"):
            read_voc(folder / "Annotations" / "cell0.xml")


def test_padding_adds_nothing_but_padding() -> None:
    boxes, labels = torch.rand(2, 3, 4), torch.ones(2, 3, dtype=torch.long)
    wider = padded(boxes, labels, 5)
    assert torch.equal(wider["boxes"][:, :3], boxes)
    assert wider["labels"][:, 3:].unique().tolist() == [-1]
    assert torch.equal(padded(boxes, labels, 3)["boxes"], boxes)


@pytest.mark.data
def test_the_real_files(data_root: Path, tmp_path: Path) -> None:
    if not (data_root / "bccd").is_dir():
        pytest.skip("needs bccd under REPLICATA_DATA")
    data = BCCD(
        root=str(data_root), cache=str(tmp_path), size=[32, 24], in_shape=[3, 24, 32], num_classes=3, max_objects=30
    )
    data.streams = Streams(0)
    data.setup()
    assert [len(data.splits[name]["x"]) for name in ("train", "val", "test")] == [205, 87, 72]
    boxes = data.splits["train"]["boxes"][data.splits["train"]["labels"] >= 0]
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())
    counts = torch.bincount(data.splits["train"]["labels"].flatten() + 1)[1:]
    assert int(counts[0]) > 5 * int(counts[1:].max())  # red cells are by far the most
