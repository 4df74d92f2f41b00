"""Oxford Flowers-102: photographs of 102 kinds of flowers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from replicata.data.module import Split
from replicata.data.vision.images import Images
from replicata.errors import UserError


class Flowers102(Images):
    """Flowers-102 with its own splits (1,020 / 1,020 / 6,149), scaled and cropped to squares.

    The files are looked for in torchvision's layout, ``flowers-102/{jpg,imagelabels.mat,setid.mat}``. The squares
    are kept in the cache and in memory as bytes: 1.2 GB at 224 pixels.

    Args:
        size: Side of the square that is cut from the centre, after the shorter side was scaled to 8/7 of it.
        **images: see :class:`~replicata.data.vision.images.Images`.
    """

    folder = "flowers-102"
    files = ("jpg", "imagelabels.mat", "setid.mat")

    def __init__(self, size: int, **images: Any) -> None:
        if size < 1:
            raise ValueError(f"data.size must be at least 1, got {size}")
        super().__init__(**images)
        self.size = size

    def prepare_data(self) -> None:
        """Download and decode what is missing; the first process of a machine does it before the others read."""
        if self._decoded().exists():
            return
        place = next((place for place in (self.root, self.cache) if (place / self.folder).is_dir()), None)
        if place is None:
            wanted = [f"{self.folder}/{name}" for name in self.files]
            self._download(self._fetch, wanted, f"Flowers-102 ({self.folder})")
            place = self.cache
        self._keep({split: self._decode(place, split) for split in ("train", "val", "test")}, self._decoded())

    def load(self) -> dict[str, Split]:
        self.prepare_data()
        return torch.load(self._decoded(), weights_only=True, mmap=True)

    def _decoded(self) -> Path:
        return self.cache / f"{self.folder}-{self.size}.pt"

    def _fetch(self, folder: Path) -> None:
        from torchvision.datasets import Flowers102 as Official

        Official(root=str(folder), download=True)

    def _decode(self, place: Path, split: str) -> dict[str, Tensor]:
        from torchvision.datasets import Flowers102 as Official
        from torchvision.transforms import v2

        square = v2.Compose([v2.PILToTensor(), v2.Resize(self.size * 8 // 7), v2.CenterCrop(self.size)])
        try:
            found = Official(root=str(place), split=split, transform=square)
        except RuntimeError:
            raise UserError(f"{place / self.folder} is incomplete or damaged: replace or remove it") from None
        images = torch.empty((len(found), 3, self.size, self.size), dtype=torch.uint8)
        labels = torch.empty(len(found), dtype=torch.long)
        for row in range(len(found)):
            try:
                images[row], labels[row] = found[row]
            except OSError as error:
                raise UserError(
                    f"{place / self.folder}: a {split} image cannot be read ({error}): replace it"
                ) from None
        return {"x": images, "y": labels}
