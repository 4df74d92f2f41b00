"""COCO 2017: 118,000 + 5,000 photographs with boxes of 80 kinds of things, read from files as they are needed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from replicata.data.loaders import Batch
from replicata.data.streaming import Example, StreamingDataModule
from replicata.data.vision.voc import padded
from replicata.errors import UserError


class COCO(StreamingDataModule):
    """Training images are scaled, mirrored with probability one half and standardised, others scaled and standardised.

    ``val`` and ``test`` are both the 5,000 validation images, as in most papers: nothing may be selected on ``val``.
    Training leaves out images without a box, and boxes of crowds.

    Shapes:
        - ``x``: :math:`(B, 3, H, W)`, padded with zeros at the right and the bottom; ``boxes``: :math:`(B, M, 4)`
          corners in pixels; ``labels``: :math:`(B, M)`, -1 where there are fewer than :math:`M` things; ``crowd``:
          :math:`(B, M)`; ``size``: :math:`(B, 2)`, height and width without the padding.

    Args:
        root: Folder that holds ``coco/{train2017,val2017,annotations}``, as the archives unpack.
        short: Least and largest length that the shorter side is scaled to; drawn for each training image, the mean
            of both in evaluation.
        long: What the longer side may not exceed; the shorter one is then shorter.
        divisor: Sides are padded to multiples of it.
        num_classes: Declared fact.
        mean, std: Of each channel, subtracted and divided by.
        batch_size, eval_batch_size, workers: See :class:`~replicata.data.streaming.StreamingDataModule`.

    Attributes:
        fingerprint: After ``setup``, SHA-256 of both annotation files.
    """

    columns = frozenset({"x", "boxes", "labels", "crowd", "size", "index"})
    folder = "coco"

    def __init__(
        self,
        root: str,
        *,
        short: Sequence[int],
        long: int,
        divisor: int,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        workers: int = 8,
    ) -> None:
        if len(short) != 2 or not 0 < short[0] <= short[1] <= long:
            raise ValueError(f"data.short must be two lengths up to data.long={long}, got {list(short)}")
        if divisor < 1:
            raise ValueError(f"data.divisor must be at least 1, got {divisor}")
        folder = Path(root).expanduser() / self.folder
        super().__init__(folder, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.short, self.long, self.divisor = (short[0], short[1]), long, divisor
        self.num_classes, self.mean, self.std = num_classes, list(mean), list(std)

    def setup(self, stage: str | None = None) -> None:
        if self.readers:
            return
        digest = hashlib.sha256()
        for split in ("train", "val"):
            images = self.root / f"{split}2017"
            annotations = self.root / "annotations" / f"instances_{split}2017.json"
            for path in (images, annotations):
                if not path.exists():
                    raise UserError(
                        f"COCO: {path} is missing; get the archives of 2017 from cocodataset.org and unpack them"
                        f" under {self.root}"
                    )
            digest.update(annotations.read_bytes())
            short = self.short if split == "train" else (sum(self.short) // 2,) * 2
            self.readers[split] = Reader(
                images,
                annotations,
                short=short,
                long=self.long,
                mean=self.mean,
                std=self.std,
                training=split == "train",
            )
        self.readers["test"] = self.readers["val"]
        self.fingerprint = digest.hexdigest()
        if (classes := len(self.readers["train"].classes)) != self.num_classes:
            raise UserError(f"data.num_classes is declared as {self.num_classes}, but the data has {classes}")

    def collate(self, examples: list[Example]) -> Batch:
        """Pad images to the largest of them, boxes to the most."""
        sides = [max(example["x"].shape[axis] for example in examples) for axis in (1, 2)]
        height, width = (math.ceil(side / self.divisor) * self.divisor for side in sides)
        most = max(1, *(len(example["labels"]) for example in examples))
        x = torch.zeros(len(examples), 3, height, width)
        rows = []
        for row, example in enumerate(examples):
            image = example["x"]
            x[row, :, : image.shape[1], : image.shape[2]] = image
            crowd = torch.nn.functional.pad(example["crowd"], (0, most - len(example["crowd"])))
            rows.append(padded(example["boxes"][None], example["labels"][None], most) | {"crowd": crowd[None]})
        return {
            "x": x,
            **{name: torch.cat([row[name] for row in rows]) for name in ("boxes", "labels", "crowd")},
            "size": torch.tensor([list(example["x"].shape[1:]) for example in examples]),
            "index": torch.tensor([example["index"] for example in examples]),
        }


class Reader:
    """One image of torchvision's set with its boxes, scaled.

    Args:
        images, annotations: Folder and file.
        short, long, mean, std: See :class:`COCO`.
        training: Whether to mirror at random, to leave out crowds, and images that have no other boxes.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path,
        *,
        short: tuple[int, int],
        long: int,
        mean: Sequence[float],
        std: Sequence[float],
        training: bool,
    ) -> None:
        from torchvision.datasets import CocoDetection

        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells how long it takes
            self.images = CocoDetection(str(images), str(annotations))
        coco = self.images.coco
        self.classes = {category: number for number, category in enumerate(sorted(coco.getCatIds()))}
        self.short, self.long, self.mean, self.std, self.training = short, long, list(mean), list(std), training
        every = range(len(self.images.ids))
        self.ids = [row for row in every if self._boxes(coco.imgToAnns[self.images.ids[row]])] if training else [*every]

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, row: int) -> Example:
        from torchvision.transforms.v2 import functional as T

        image, annotations = self.images[self.ids[row]]
        annotations = self._boxes(annotations)
        width, height = image.size
        short = int(torch.randint(self.short[0], self.short[1] + 1, ())) if self.training else self.short[0]
        scale = min(short / min(height, width), self.long / max(height, width))
        size = [round(height * scale), round(width * scale)]
        pixels = T.to_dtype(T.resize(T.pil_to_tensor(image), size, antialias=True), torch.float32, scale=True)
        boxes = torch.tensor([item["bbox"] for item in annotations], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes *= torch.tensor([size[1] / width, size[0] / height] * 2)
        if self.training and bool(torch.rand(()) < 0.5):
            pixels, boxes = (
                pixels.flip(2),
                torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], 1),
            )
        return {
            "x": T.normalize(pixels, self.mean, self.std),
            "boxes": boxes,
            "labels": torch.tensor([self.classes[item["category_id"]] for item in annotations], dtype=torch.long),
            "crowd": torch.tensor([bool(item.get("iscrowd", 0)) for item in annotations], dtype=torch.bool),
        }

    def _boxes(self, annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those with an area; for training no crowds."""
        return [
            item
            for item in annotations
            if min(item["bbox"][2:]) >= 1 and not (self.training and item.get("iscrowd", 0))
        ]
