"""Places of a feature pyramid in pixels of the image: cells' centres and anchor boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int]  # height, width of a level


def cell_centres(sizes: Sequence[Size], strides: Sequence[int], device: torch.device | None = None) -> Tensor:
    r"""Centres :math:`s (j + \tfrac12), s (i + \tfrac12)` of the cells of all levels, row by row: :math:`(N, 2)`."""
    return torch.cat([_grid(size, stride, stride / 2, device) for size, stride in zip(sizes, strides, strict=True)])


def cell_strides(sizes: Sequence[Size], strides: Sequence[int], device: torch.device | None = None) -> Tensor:
    """The stride of each cell of all levels: :math:`(N)`."""
    every = [torch.full((h * w,), float(s), device=device) for (h, w), s in zip(sizes, strides, strict=True)]
    return torch.cat(every)


def anchor_shapes(scales: Sequence[float], ratios: Sequence[float], device: torch.device | None = None) -> Tensor:
    """Boxes around 0 with the area of a square of each scale and each ratio of height to width: :math:`(A, 4)`.

    All scales of the first ratio come first.
    """
    root = torch.tensor(ratios, dtype=torch.float32, device=device).sqrt()[:, None]
    scale = torch.tensor(scales, dtype=torch.float32, device=device)
    w, h = (scale / root).flatten() / 2, (scale * root).flatten() / 2
    return torch.stack([-w, -h, w, h], 1)


def anchors(
    sizes: Sequence[Size],
    strides: Sequence[int],
    scales: Sequence[float],
    ratios: Sequence[float],
    device: torch.device | None = None,
) -> Tensor:
    r"""Anchor boxes of all levels, cell by cell: :math:`(N A, 4)`.

    They stand on the cells' upper left corners, :math:`(s j, s i)`, as those of torchvision and of MMDetection do;
    their sides are not rounded (torchvision's are).

    Args:
        sizes: Height and width of each level.
        strides: Pixels between neighbouring cells of each level.
        scales: Sides of the square anchors, in strides.
        ratios: Height over width.
    """
    every = []
    for size, stride in zip(sizes, strides, strict=True):
        corners = _grid(size, stride, 0, device).repeat(1, 2)
        shapes = anchor_shapes([stride * scale for scale in scales], ratios, device)
        every.append((corners[:, None] + shapes).flatten(0, 1))
    return torch.cat(every)


def _grid(size: Size, stride: int, start: float, device: torch.device | None) -> Tensor:
    """x, y of each cell: :math:`(HW, 2)`."""
    y, x = (torch.arange(side, dtype=torch.float32, device=device) * stride + start for side in size)
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], 2).flatten(0, 1)
