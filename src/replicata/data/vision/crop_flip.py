"""Random crops and flips of whole batches, drawn for each image on its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from replicata.streams import Stream


def pad_crop(images: Tensor, padding: int, stream: Stream) -> Tensor:
    """Pad with zeros on all sides and cut the old size out at a random place.

    Args:
        images: :math:`(B, C, H, W)`, on any device.
        padding: Pixels on each side; 0 draws nothing.
        stream: Draws the places, on the CPU.
    """
    if not padding:
        return images
    count, _, height, width = images.shape
    corner = torch.randint(2 * padding + 1, (2, count), generator=stream.torch).to(images.device)
    rows = corner[0, :, None, None] + torch.arange(height, device=images.device)[:, None]
    columns = corner[1, :, None, None] + torch.arange(width, device=images.device)
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    return padded[torch.arange(count, device=images.device)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def flip(images: Tensor, stream: Stream) -> Tensor:
    """Mirror each image left to right with probability one half.

    Args:
        images: :math:`(B, C, H, W)`, on any device.
        stream: Draws which ones, on the CPU.
    """
    chosen = torch.randint(2, (len(images), 1, 1, 1), generator=stream.torch).bool().to(images.device)
    return torch.where(chosen, images.flip(-1), images)
