"""Scenes for detection, made of single images: things of several sizes on one canvas, with their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.data.module import Split, TensorDataModule, take
from replicata.data.vision.images import Digits, FashionMNIST, Images
from replicata.errors import UserError
from replicata.streams import Stream

TRIES = 20  # places that are tried for a thing before it is left out

# Rows of a source's training images for the training and validation scenes, and where the test's come from.
SPRITES: dict[str, tuple[type[Images], dict[str, tuple[str, int, int | None]], dict[str, Any]]] = {
    "fashion_mnist": (
        FashionMNIST,
        {"train": ("train", 0, 55000), "val": ("train", 55000, 60000), "test": ("test", 0, None)},
        {"in_shape": [1, 28, 28], "in_features": 784, "num_classes": 10},
    ),
    "digits": (
        Digits,
        {"train": ("train", 0, 1200), "val": ("train", 1200, 1400), "test": ("train", 1400, None)},
        {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": 10},
    ),
}


@dataclass(frozen=True)
class SceneComposer:
    r"""Puts sprites on a canvas.

    The background is low-frequency noise: uniform on a coarse grid, interpolated. A thing's side is log-uniform, its
    ratio of width to height the exponential of a uniform number; it is resized, put where it fits whole, and
    joined by the larger of both values at each pixel. Its box is that of its pixels above ``ink``. A place is tried
    again while the box overlaps an earlier one too much; a thing that finds none is left out.

    Args:
        size: Side of the canvas.
        objects: Least and largest number of things that are tried.
        sides: Least and largest side of a thing, before the ratio is applied (its area is kept).
        ratio: Largest logarithm of width over height.
        overlap: Largest intersection over union of two boxes.
        background: Largest value of the background.
        cells: Side of the background's grid.
        ink: Value above which a pixel belongs to its thing.
    """

    size: int = 96
    objects: tuple[int, int] = (1, 5)
    sides: tuple[float, float] = (14.0, 48.0)
    ratio: float = 0.35
    overlap: float = 0.3
    background: float = 0.3
    cells: int = 8
    ink: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.objects[0] <= self.objects[1]:
            raise ValueError(f"data.objects must be two numbers from 1 on, the larger last, got {list(self.objects)}")
        widest = self.sides[1] * math.exp(self.ratio / 2)
        if not 2 <= self.sides[0] <= self.sides[1] or widest > self.size:
            raise ValueError(
                f"data.sides must be two numbers from 2 on, the larger last, and fit into data.size={self.size} with"
                f" data.ratio={self.ratio}, got {list(self.sides)}"
            )

    def compose(
        self, sprites: Tensor, rows: Sequence[Tensor], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One scene.

        Args:
            sprites: :math:`(n, h, w)` in [0, 1].
            rows: Of each class the numbers of its sprites; all classes are equally likely.
            rng: Draws everything.

        Returns:
            The canvas :math:`(S, S)`, boxes :math:`(m, 4)` and classes :math:`(m)`.
        """
        grid = torch.from_numpy(rng.uniform(0, self.background, (1, 1, self.cells, self.cells)).astype(np.float32))
        canvas = F.interpolate(grid, (self.size, self.size), mode="bilinear")[0, 0]
        boxes: list[tuple[float, float, float, float]] = []
        found: list[int] = []
        for _ in range(int(rng.integers(self.objects[0], self.objects[1] + 1))):
            label = int(rng.integers(len(rows)))
            thing = self._resized(sprites[rows[label][int(rng.integers(len(rows[label])))]], rng)
            ink = thing > self.ink
            lines, columns = ink.any(1).nonzero().squeeze(1), ink.any(0).nonzero().squeeze(1)
            if not len(lines):
                continue
            extent = (int(columns[0]), int(lines[0]), int(columns[-1]) + 1, int(lines[-1]) + 1)
            height, width = thing.shape
            for _ in range(TRIES):
                x, y = int(rng.integers(self.size - width + 1)), int(rng.integers(self.size - height + 1))
                box = (x + extent[0], y + extent[1], x + extent[2], y + extent[3])
                if all(_overlap(box, other) <= self.overlap for other in boxes):
                    place = canvas[y : y + height, x : x + width]
                    torch.maximum(place, thing, out=place)
                    boxes.append(box)
                    found.append(label)
                    break
        return canvas, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(found, dtype=torch.long)

    def _resized(self, sprite: Tensor, rng: np.random.Generator) -> Tensor:
        side = math.exp(rng.uniform(math.log(self.sides[0]), math.log(self.sides[1])))
        ratio = math.exp(rng.uniform(-self.ratio, self.ratio))
        shape = [max(2, round(side * ratio**power)) for power in (-0.5, 0.5)]
        return F.interpolate(sprite[None, None], shape, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


class DetectionScenes(TensorDataModule):
    """Scenes of garments or digits. Those of training, validation and test are made of different images.

    A scene depends on the seed and its number alone: fewer of them are the first of more.

    Shapes:
        - ``x``: :math:`(B, 1, S, S)`, floats in [0, 1]; ``boxes``: :math:`(B, M, 4)` corners in pixels; ``labels``:
          :math:`(B, M)`, -1 where there are fewer than :math:`M` things.

    Args:
        source: ``fashion_mnist``, or ``digits``, which needs no files.
        size, objects, sides, ratio, overlap, background: See :class:`SceneComposer`.
        n_train, n_val, n_test: Scenes to draw.
        in_shape, num_classes, max_objects: Declared facts: :math:`[1, S, S]`, the classes, :math:`M`.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.
    """

    def __init__(
        self,
        source: Literal["fashion_mnist", "digits"],
        *,
        in_shape: Sequence[int],
        num_classes: int,
        max_objects: int,
        size: int = 96,
        objects: Sequence[int] = (1, 5),
        sides: Sequence[float] = (14.0, 48.0),
        ratio: float = 0.35,
        overlap: float = 0.3,
        background: float = 0.3,
        n_train: int = 2000,
        n_val: int = 200,
        n_test: int = 400,
        **loader: Any,
    ) -> None:
        if source not in SPRITES:
            raise ValueError(f"data.source must be one of {', '.join(SPRITES)}, got {source!r}")
        if min(n_train, n_val, n_test) < 1:
            raise ValueError(f"data.n_train, n_val and n_test must be at least 1, got {n_train}, {n_val}, {n_test}")
        super().__init__(**loader)
        self.composer = SceneComposer(
            size=size,
            objects=(objects[0], objects[1]),
            sides=(sides[0], sides[1]),
            ratio=ratio,
            overlap=overlap,
            background=background,
        )
        self.in_shape, self.num_classes, self.max_objects = list(in_shape), num_classes, max_objects
        self.counts = {"train": n_train, "val": n_val, "test": n_test}
        kind, self.rows, facts = SPRITES[source]
        self.source = kind(root=str(self.root), cache=str(self.cache), download=self.download, **facts)

    def prepare_data(self) -> None:
        self.source.prepare_data()

    def load(self) -> dict[str, Split]:
        images = self.source.load()
        splits = {}
        for part, (name, count) in enumerate(self.counts.items()):
            split, first, end = self.rows[name]
            sprites = take(images[split], torch.arange(len(images[split]["y"]))[first:end])
            splits[name] = self._draw(count, sprites, self.streams.split.at(part))
        return splits

    def facts(self) -> dict[str, Any]:
        train = self.splits["train"]
        return {
            "in_shape": list(train["x"].shape[1:]),
            "num_classes": self.source.num_classes,
            "max_objects": train["boxes"].shape[1],
        }

    def transform(self, batch: Batch) -> Batch:
        return batch | {"x": batch["x"].float() / 255}

    def _draw(self, count: int, sprites: Split, stream: Stream) -> Split:
        images = sprites["x"][:, 0].float() / (255 if sprites["x"].dtype == torch.uint8 else 1)
        by_class = [(sprites["y"] == label).nonzero().squeeze(1) for label in range(self.source.num_classes)]
        if lacking := [label for label, rows in enumerate(by_class) if not len(rows)]:
            raise UserError(f"data.source: {type(self.source).__name__} has no images of class {lacking[0]} for scenes")
        size, most = self.composer.size, self.composer.objects[1]
        x = torch.zeros(count, 1, size, size, dtype=torch.uint8)
        boxes, labels = torch.zeros(count, most, 4), torch.full((count, most), -1)
        for row in range(count):
            canvas, found, classes = self.composer.compose(images, by_class, stream.at(row).numpy)
            x[row, 0] = (canvas * 255).round().byte()
            boxes[row, : len(found)], labels[row, : len(found)] = found, classes
        return {"x": x, "boxes": boxes, "labels": labels}


def _overlap(one: Sequence[float], two: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return shared / (sum(areas) - shared)
