"""Classification of images that are cropped and flipped at random while training."""

from __future__ import annotations

from typing import Any

from replicata.data.loaders import Batch
from replicata.data.vision.crop_flip import flip, pad_crop
from replicata.tasks.supervised import Classification


class ImageClassification(Classification):
    """Cross-entropy on randomly cropped and flipped images, as usual for CIFAR.

    Args:
        crop_padding: Zeros on each side before the crop to the old size; 0: no crop.
        flip: Whether each image is mirrored with probability one half.
        **task: see :class:`~replicata.tasks.supervised.Classification`.
    """

    def __init__(self, crop_padding: int = 0, flip: bool = False, **task: Any) -> None:
        if crop_padding < 0:
            raise ValueError(f"method.crop_padding must be >= 0, got {crop_padding}")
        super().__init__(**task)
        self.crop_padding, self.flip = crop_padding, flip

    def augment(self, batch: Batch) -> Batch:
        x = pad_crop(batch["x"], self.crop_padding, self.streams.noise)
        return batch | {"x": flip(x, self.streams.noise) if self.flip else x}
