"""Boxes in the XML files of PASCAL VOC, and the blood cells of BCCD, which come in them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from replicata.data.files import published
from replicata.data.loaders import Batch
from replicata.data.module import Split, TensorDataModule
from replicata.data.vision.images import publish, staging
from replicata.errors import UserError


def read_voc(path: Path) -> tuple[list[tuple[str, float, float, float, float]], tuple[int, int]]:
    """The objects of one annotation, as name, x1, y1, x2, y2 in pixels, and the image's width and height.

    Raises:
        UserError: if the file is none of VOC's.
    """
    try:
        root = ElementTree.parse(path).getroot()
        width, height = (int(_text(root, f"size/{side}")) for side in ("width", "height"))
        objects = []
        for item in root.iter("object"):
            x1, y1, x2, y2 = (float(_text(item, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))
            objects.append((_text(item, "name"), x1, y1, x2, y2))
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise UserError(f"{path} is no annotation of PASCAL VOC ({error}): replace it") from None
    return objects, (width, height)


class BCCD(TensorDataModule):
    """Red and white blood cells and platelets under the microscope: 205, 87 and 72 photographs of 640x480.

    They are made smaller and kept as bytes. Boxes without an area, and there are some, are left out.

    Files are looked for in ``bccd/{JPEGImages,Annotations,ImageSets/Main}`` under ``root`` and ``cache``; where they
    are not, the archive of the project that publishes them is fetched.

    Shapes:
        - ``x``: :math:`(B, 3, H, W)`, floats in [0, 1]; ``boxes``: :math:`(B, M, 4)` corners in pixels; ``labels``:
          :math:`(B, M)`, -1 where there are fewer than :math:`M` cells.

    Args:
        size: Width and height of the images.
        in_shape, num_classes, max_objects: Declared facts: :math:`[3, H, W]`, the classes, :math:`M` over all splits.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.
    """

    classes: ClassVar[tuple[str, ...]] = ("RBC", "WBC", "Platelets")
    folder: ClassVar[str] = "bccd"
    url: ClassVar[str] = "https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip"

    def __init__(
        self, *, size: Sequence[int], in_shape: Sequence[int], num_classes: int, max_objects: int, **loader: Any
    ) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"data.size must be a width and a height, got {list(size)}")
        super().__init__(**loader)
        self.size = (size[0], size[1])
        self.in_shape, self.num_classes, self.max_objects = list(in_shape), num_classes, max_objects

    def prepare_data(self) -> None:
        """Fetch and unpack what is missing; the first process of a machine does it before the others read."""
        if self._place() is not None:
            return
        archive = published(
            f"{self.folder}.zip", root=self.root, cache=self.cache, url=self.url, download=self.download
        )
        with staging(self.cache) as folder:
            try:
                with zipfile.ZipFile(archive) as packed:
                    inside = [name for name in packed.namelist() if "/BCCD/" in name]
                    packed.extractall(folder, inside)
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"{archive} is damaged ({error}): remove it to download it anew") from None
            found = next(folder.glob("*/BCCD"), None)
            if found is None:
                raise UserError(f"{archive} is not the archive of BCCD: remove it to download it")
            publish(found, self.cache / self.folder)

    def load(self) -> dict[str, Split]:
        self.prepare_data()
        place = self._place()
        assert place is not None
        return {name: self._read(place, name) for name in ("train", "val", "test")}

    def process(self, splits: dict[str, Split]) -> dict[str, Split]:
        most = max(split["labels"].shape[1] for split in splits.values())
        return {name: split | padded(split["boxes"], split["labels"], most) for name, split in splits.items()}

    def facts(self) -> dict[str, Any]:
        train = self.splits["train"]
        return {
            "in_shape": list(train["x"].shape[1:]),
            "num_classes": len(self.classes),
            "max_objects": train["labels"].shape[1],
        }

    def transform(self, batch: Batch) -> Batch:
        return batch | {"x": batch["x"].float() / 255}

    def _place(self) -> Path | None:
        places = (base / self.folder for base in (self.root, self.cache))
        return next((place for place in places if (place / "ImageSets").is_dir()), None)

    def _read(self, place: Path, split: str) -> Split:
        from PIL import Image

        listed = place / "ImageSets" / "Main" / f"{split}.txt"
        if not listed.is_file():
            raise UserError(f"{listed} is missing: put it there, or remove {place} to fetch the set anew")
        names = listed.read_text().split()
        images, boxes, labels = [], [], []
        for name in names:
            objects, (width, height) = read_voc(place / "Annotations" / f"{name}.xml")
            path = place / "JPEGImages" / f"{name}.jpg"
            try:
                image = Image.open(path).convert("RGB").resize(self.size, Image.Resampling.BILINEAR, reducing_gap=2.0)
            except OSError as error:
                raise UserError(f"{path} is missing or damaged ({error}): replace it") from None
            images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
            if unknown := {item[0] for item in objects} - set(self.classes):
                raise UserError(f"{place}: {name}.xml names {min(unknown)!r}; BCCD has {', '.join(self.classes)}")
            scale = torch.tensor([self.size[0] / width, self.size[1] / height] * 2)
            real = [item for item in objects if item[3] > item[1] and item[4] > item[2]]
            boxes.append(torch.tensor([item[1:] for item in real], dtype=torch.float32).reshape(-1, 4) * scale)
            labels.append(torch.tensor([self.classes.index(item[0]) for item in real], dtype=torch.long))
        most = max(1, *map(len, labels))
        rows = [padded(box[None], label[None], most) for box, label in zip(boxes, labels, strict=True)]
        columns = {name: torch.cat([row[name] for row in rows]) for name in ("boxes", "labels")}
        return {"x": torch.stack(images), **columns}


def padded(boxes: Tensor, labels: Tensor, most: int) -> Split:
    """``boxes`` :math:`(B, m, 4)` and ``labels`` :math:`(B, m)` with zeros and -1 up to ``most`` objects."""
    lacking = most - labels.shape[1]
    pad = torch.nn.functional.pad
    return {"boxes": pad(boxes, (0, 0, 0, lacking)), "labels": pad(labels, (0, lacking), value=-1)}


def _text(item: ElementTree.Element, path: str) -> str:
    found = item.findtext(path)
    if found is None:
        raise ValueError(f"it has no {path}")
    return found
