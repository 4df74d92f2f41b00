"""How alike the representations of a graph's nodes are: the measure of over-smoothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smoothness(x: Tensor, block: int = 1024) -> Tensor:
    r"""Smoothness metric value of every node, as in "Towards Deeper Graph Neural Networks" (KDD 2020).

    .. math:: \mathrm{SMV}_i = \frac{1}{n - 1} \sum_{j \ne i}
        \frac{1}{2} \left\| \frac{x_i}{\|x_i\|} - \frac{x_j}{\|x_j\|} \right\|

    0 where all nodes point the same way (over-smoothed), at most 1. The mean over nodes is
    :math:`\mathrm{SMV}_G`. Distances are computed as such, not from inner products, whose rounding
    would hide differences below 1e-4.

    Args:
        x: :math:`(n, C)` representations, :math:`n \ge 2`; a zero row is at distance 1/2 from all others.
        block: Rows at a time; memory is ``block * n``.

    Returns:
        :math:`(n)` values.
    """
    unit = F.normalize(x, dim=1)
    sums = [torch.cdist(rows, unit, compute_mode="donot_use_mm_for_euclid_dist").sum(1) for rows in unit.split(block)]
    return torch.cat(sums) / (2 * (len(x) - 1))
