r"""Heat maps of points: Gaussian targets, and peaks.

Law, Deng, CornerNet: Detecting Objects as Paired Keypoints, ECCV 2018. https://arxiv.org/abs/1808.01244
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from replicata.nn.anchors import Size, cell_centres


def corner_radius(width: Tensor, height: Tensor, overlap: float = 0.7) -> Tensor:
    """How far both corners of a box may move so that it still overlaps its old place by ``overlap``.

    The least over three cases: one corner moves in and the other out, both in, both out.
    """
    total, area = width + height, width * height
    shifted = (total - (total**2 - 4 * area * (1 - overlap) / (1 + overlap)).sqrt()) / 2
    inside = (2 * total - (4 * total**2 - 16 * (1 - overlap) * area).sqrt()) / 8
    out = -2 * overlap * total
    outside = (out + (out**2 - 16 * overlap * (overlap - 1) * area).sqrt()) / (8 * overlap)
    return torch.stack([shifted, inside, outside]).amin(0)


def gaussian_targets(
    points: Tensor, sigma: Tensor, labels: Tensor, num_classes: int, *, size: Size, stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Targets of one level: a Gaussian around the cell that is nearest to each point, and the offsets there.

    Where several reach a cell, the highest counts, and of equals the first; it lies in the channel of its class.

    Args:
        points: :math:`(B, M, 2)` x, y in pixels.
        sigma: :math:`(B, M)` pixels.
        labels: :math:`(B, M)` classes; -1 where there is no point.
        num_classes: :math:`K`.
        size: Height and width of the level.
        stride: Pixels between neighbouring cells, whose centres are at :math:`s (j + \tfrac12)`.

    Returns:
        Heat :math:`(B, K, H, W)`; offsets :math:`(B, 2, H, W)` from cell to point in strides, 0 elsewhere; the cells
        that are some point's nearest, :math:`(B, H, W)`.
    """
    (height, width), (batch, many) = size, labels.shape
    present = labels >= 0
    limit = torch.tensor([width - 1, height - 1], device=points.device)
    # A point on the edge between two cells is as near to both; it goes to the first.
    cell = ((points / stride).ceil() - 1).clamp(min=torch.zeros_like(limit), max=limit).long()

    def falloff(axis: int, side: int) -> Tensor:
        steps = torch.arange(side, device=points.device) - cell[..., axis, None]
        return torch.exp(-0.5 * (steps * stride / sigma[..., None]) ** 2)

    heat = falloff(1, height)[..., :, None] * falloff(0, width)[..., None, :]  # (B, M, H, W)
    highest, which = heat.masked_fill(~present[..., None, None], -1).flatten(2).max(1)
    highest = highest.clamp(min=0)

    classes = labels.clamp(min=0).gather(1, which)
    target = highest.new_zeros(batch, num_classes, height * width).scatter(1, classes[:, None], highest[:, None])

    place = cell[..., 1] * width + cell[..., 0]
    nearest = torch.zeros(batch, height * width, dtype=torch.bool, device=points.device)
    rows = torch.arange(batch, device=points.device)[:, None].expand(-1, many)
    nearest[rows[present], place[present]] = True
    chosen = points.gather(1, which[..., None].expand(-1, -1, 2))
    offsets = (chosen - cell_centres([size], [stride], points.device)) / stride * nearest[..., None]

    grid = (height, width)
    return target.unflatten(2, grid), offsets.transpose(1, 2).unflatten(2, grid), nearest.unflatten(1, grid)


def peaks(heat: Tensor, many: int) -> tuple[Tensor, Tensor]:
    """The highest local maxima over 3x3 cells; cells that are none count as 0.

    Args:
        heat: :math:`(B, K, H, W)`, not negative.
        many: How many; never more than there are cells.

    Returns:
        Heat and number of the cell, :math:`(B, k)` each, the highest first. A cell can be there for several classes.
    """
    cells = heat[0, 0].numel()
    kept = heat * (F.max_pool2d(heat, 3, 1, 1) == heat)
    values, at = kept.flatten(1).topk(min(many, cells))
    return values, at % cells
