"""Transforms of whole batches."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from replicata.data.vision.transforms import rotate


@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
@pytest.mark.parametrize("degrees", [0.0, 13.0, 45.0, 90.0, -60.0])
def test_rotation_is_torchvisions(size: tuple[int, int], degrees: float) -> None:
    images = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0))
    expected = reference.rotate(images, degrees, interpolation=InterpolationMode.BILINEAR)
    torch.testing.assert_close(rotate(images, degrees), expected, rtol=0, atol=1e-5)


def test_quarter_turn_and_zeros_from_outside() -> None:
    images = torch.ones(2, 1, 6, 6)
    images[:, :, 0, 0] = 5
    torch.testing.assert_close(rotate(images, 90), torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-5)
    assert rotate(torch.ones(1, 1, 8, 8), 45)[0, 0, 0, 0] == 0
