"""Transforms of whole batches of images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotate about the centre, counter-clockwise, bilinear, with zeros from outside.

    Args:
        images: :math:`(B, C, H, W)`.
        degrees: One angle for the batch.
    """
    height, width = images.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Where each output pixel comes from; the grid's unit is half the image, which differs between the axes.
    back = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]], dtype=images.dtype)
    grid = F.affine_grid(back[None].to(images.device), [1, 1, height, width], align_corners=False)
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), padding_mode="zeros", align_corners=False)
