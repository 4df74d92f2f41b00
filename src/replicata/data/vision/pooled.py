"""Image sets made smaller: averaged over squares of pixels, standardised, cut at fixed rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from replicata.data.module import Split
from replicata.data.vision.images import CIFAR10, MNIST, Digits, FashionMNIST, Images
from replicata.errors import UserError

SOURCES: dict[str, type[Images]] = {"cifar10": CIFAR10, "mnist": MNIST, "fashion_mnist": FashionMNIST, "digits": Digits}


class PooledImages(Images):
    """A set of :mod:`replicata.data.vision.images` with fewer pixels an image, and where asked fewer images.

    Networks that are trained by one run and used by another must get equal inputs and never see the other's
    validation images. So the constants of the standardisation are given, not measured, and ``rows`` are the same
    for all seeds; without ``rows`` splits are drawn by seed, as :class:`~replicata.data.module.TensorDataModule` does.

    Shapes:
        - ``x``: :math:`(B, C, H / s, W / s)` floats, ``y``: :math:`(B)`.

    Args:
        source: ``cifar10``, ``mnist``, ``fashion_mnist`` or ``digits``.
        pool: Side :math:`s` of the squares of pixels that become one.
        rows: By split the first row and the one behind the last, of the source's training split.
        mean, std: Of each channel, subtracted and divided by; ``None``: images stay in [0, 1].
        in_shape, in_features, num_classes, **images: see :class:`~replicata.data.vision.images.Images`; the facts
            are those of the small images.
    """

    def __init__(
        self,
        source: Literal["cifar10", "mnist", "fashion_mnist", "digits"],
        pool: int = 1,
        rows: Mapping[str, Sequence[int]] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **images: Any,
    ) -> None:
        if source not in SOURCES:
            raise ValueError(f"data.source must be one of {', '.join(SOURCES)}, got {source!r}")
        if pool < 1:
            raise ValueError(f"data.pool must be at least 1, got {pool}")
        super().__init__(**images)
        for name, values in (("mean", mean), ("std", std)):
            if (mean is None) != (std is None) or (values is not None and len(values) != self.in_shape[0]):
                raise ValueError(f"data.{name} must be one number a channel ({self.in_shape[0]}), or mean and std null")
        if unknown := set(rows or ()) - {"train", "val", "test"}:
            raise ValueError(f"data.rows.{min(unknown)}: there are the splits train, val and test")
        self.source = SOURCES[source](**images)
        self.pool, self.rows = pool, {split: tuple(ends) for split, ends in (rows or {}).items()}
        self.mean, self.std = mean, std

    def prepare_data(self) -> None:
        self.source.prepare_data()

    def load(self) -> dict[str, Split]:
        loaded = self.source.load()
        self.notes = self.source.notes
        pool = loaded["train"]
        for split, (first, end) in self.rows.items():
            if not 0 <= first < end <= len(pool["y"]):
                raise UserError(f"data.rows.{split}=[{first}, {end}] does not fit: there are {len(pool['y'])} rows")
            loaded[split] = {name: column[first:end] for name, column in pool.items()}
        return loaded

    def process(self, splits: dict[str, Split]) -> dict[str, Split]:
        return {name: split | {"x": self._small(split["x"])} for name, split in splits.items()}

    def _small(self, x: Tensor) -> Tensor:
        parts = []
        for images in x.split(4096):  # a whole set of floats at its old size need not fit
            small = F.avg_pool2d(images.float() / (255 if images.dtype == torch.uint8 else 1), self.pool)
            if self.mean is not None and self.std is not None:
                small = (small - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]
            parts.append(small)
        return torch.cat(parts)
