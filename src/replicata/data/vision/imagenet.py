"""ImageNet (ILSVRC 2012): 1.28 million photographs of 1,000 kinds of things, read from files as they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from replicata.data.streaming import Example, StreamingDataModule
from replicata.errors import UserError

_SETS = {"train": "train", "val": "val", "test": "val"}


class ImageNet(StreamingDataModule):
    """Training images are cut at random places and sizes and flipped (torchvision's RandomResizedCrop and
    RandomHorizontalFlip, defaults), others scaled and cut from the centre; all are standardised.

    ``val`` and ``test`` are both the 50,000 validation images, as in most papers: nothing may be selected on ``val``.

    Shapes:
        - ``x``: :math:`(B, 3, S, S)`, ``y``: :math:`(B)`.

    Args:
        root: Folder that holds ``imagenet/{train,val,meta.bin}``, as ``torchvision.datasets.ImageNet`` leaves them.
        size: Side :math:`S` of the images.
        resize: To what the shorter side is scaled for evaluation, before the centre is cut out.
        in_shape, in_features, num_classes: Declared facts.
        mean, std: Of each channel, subtracted and divided by.
        batch_size, eval_batch_size, workers: See :class:`~replicata.data.streaming.StreamingDataModule`.

    Attributes:
        fingerprint: After ``setup``, SHA-256 over the names and classes of all files.
    """

    columns = frozenset({"x", "y", "index"})
    folder = "imagenet"

    def __init__(
        self,
        root: str,
        *,
        size: int,
        resize: int,
        in_shape: Sequence[int],
        in_features: int,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        workers: int = 8,
    ) -> None:
        if not 0 < size <= resize:
            raise ValueError(f"data.size must be from 1 to data.resize={resize}, got {size}")
        if list(in_shape) != [3, size, size] or in_features != 3 * size * size:
            raise ValueError(f"data.in_shape must be [3, {size}, {size}] and in_features their product")
        folder = Path(root).expanduser() / self.folder
        super().__init__(folder, batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers)
        self.size, self.resize, self.mean, self.std = size, resize, list(mean), list(std)
        self.in_shape, self.in_features, self.num_classes = list(in_shape), in_features, num_classes

    def setup(self, stage: str | None = None) -> None:
        if self.readers:
            return
        from torchvision.datasets import ImageNet as Official

        missing = [name for name in ("train", "val", "meta.bin") if not (self.root / name).exists()]
        if missing:
            raise UserError(
                f"ImageNet: {self.root / missing[0]} is missing; it cannot be downloaded without an account. Put the"
                f" official archives into a folder of your own, unpack them there by torchvision.datasets.ImageNet, and"
                f" name the folder {self.folder} under {self.root.parent}"
            )
        sets = {split: Official(str(self.root), split, transform=self.transform(split)) for split in ("train", "val")}
        digest = hashlib.sha256()
        for found in sets.values():
            for path, label in found.samples:
                digest.update(f"{Path(path).relative_to(self.root).as_posix()}:{label}\n".encode())
        self.fingerprint = digest.hexdigest()
        if (classes := len(sets["train"].classes)) != self.num_classes:
            raise UserError(f"data.num_classes is declared as {self.num_classes}, but the data has {classes}")

        self.readers = {split: _Reader(sets[name]) for split, name in _SETS.items()}

    def transform(self, split: str) -> Any:
        """From a photograph to the image that the network gets."""
        import torch
        from torchvision.transforms import v2

        if split == "train":
            cut = [v2.RandomResizedCrop(self.size), v2.RandomHorizontalFlip()]
        else:
            cut = [v2.Resize(self.resize), v2.CenterCrop(self.size)]
        finish = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)]
        return v2.Compose([*cut, *finish])


class _Reader:
    """One example of a torchvision set, as a dict."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, row: int) -> Example:
        image: Tensor
        image, label = self.images[row]
        return {"x": image, "y": label}
