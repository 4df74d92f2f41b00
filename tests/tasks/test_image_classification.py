"""Classification with crops and flips."""

from __future__ import annotations

import pytest
import torch

from replicata.data.vision.crop_flip import flip, pad_crop
from replicata.streams import Streams
from replicata.tasks.image_classification import ImageClassification


def test_training_batches_are_cropped_and_flipped() -> None:
    batch = {"x": torch.rand(8, 3, 6, 6), "y": torch.arange(8)}
    method = ImageClassification(num_classes=8, crop_padding=2, flip=True)
    method.streams = Streams(0)
    expected = Streams(0).noise
    assert torch.equal(method.augment(batch)["x"], flip(pad_crop(batch["x"], 2, expected), expected))


def test_without_either_batches_stay_as_they_are() -> None:
    batch = {"x": torch.rand(8, 3, 6, 6), "y": torch.arange(8)}
    method = ImageClassification(num_classes=8)
    method.streams = Streams(0)
    before = method.streams.noise.torch.get_state()
    assert method.augment(batch)["x"] is batch["x"]
    assert torch.equal(method.streams.noise.torch.get_state(), before)
    with pytest.raises(ValueError, match=r"method\.crop_padding"):
        ImageClassification(num_classes=8, crop_padding=-1)
