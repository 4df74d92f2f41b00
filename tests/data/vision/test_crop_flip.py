"""Random crops and flips, drawn for each image."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as reference

from replicata.data.vision.crop_flip import flip, pad_crop
from replicata.streams import Stream


def numbered(count: int, height: int = 6, width: int = 5) -> torch.Tensor:
    """Images without a zero in which every pixel is told from every other."""
    return torch.arange(1.0, count * 2 * height * width + 1).reshape(count, 2, height, width)


@given(st.integers(0, 3), st.integers(0, 1000))
def test_a_crop_is_torchvisions_at_the_drawn_corner(padding: int, seed: int) -> None:
    images = numbered(4)
    cut = pad_crop(images, padding, Stream(seed))
    corners = torch.zeros(2, 4, dtype=torch.long)
    if padding:
        corners = torch.randint(2 * padding + 1, (2, 4), generator=Stream(seed).torch)
    padded = reference.pad(images, [padding])
    for image, whole, (top, left) in zip(cut, padded, corners.T.tolist(), strict=True):
        assert torch.equal(image, reference.crop(whole, top, left, 6, 5))


def test_every_place_is_drawn_and_images_differ() -> None:
    images = numbered(1).expand(2000, -1, -1, -1)
    cut = pad_crop(images, 2, Stream(0))
    places, counts = cut.flatten(1).unique(dim=0, return_counts=True)
    assert len(places) == 25
    assert counts.min() > 40


@given(st.integers(0, 1000))
def test_each_image_is_mirrored_or_not(seed: int) -> None:
    images = numbered(16)
    mirrored = reference.horizontal_flip(images)
    for image, before, other in zip(flip(images, Stream(seed)), images, mirrored, strict=True):
        assert torch.equal(image, before) or torch.equal(image, other)


def test_half_of_the_images_are_mirrored() -> None:
    images = numbered(1).expand(1000, -1, -1, -1)
    changed = (flip(images, Stream(1)) != images).flatten(1).any(1)
    assert 440 < int(changed.sum()) < 560
