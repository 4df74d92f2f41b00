r"""Fully connected networks in the tangent-kernel parametrisation."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class NTKMLP(nn.Module):
    r"""An MLP without biases whose weights are all :math:`N(0, 1)` and whose layers divide by the root of their width.

    .. math::
        z_1 = W_1 x, \qquad z_{l+1} = W_{l+1}\,\phi(z_l) / \sqrt m, \qquad f(x) = w^\top \phi(z_L) / \sqrt m

    For unit vectors :math:`x` its tangent kernel at initialisation tends to :math:`K_L` of
    :func:`~replicata.nn.kernels.nngp_ntk` as the width :math:`m` grows (Jacot et al. 2018).

    Args:
        in_features: Length of :math:`x`.
        width: :math:`m`.
        depth: Hidden layers :math:`L`.
        activation: :math:`\phi`, with :math:`\mathbb{E}\phi(z)^2 = 1` for :math:`z \sim N(0, 1)`.

    Shapes:
        - input :math:`(B, *)` is flattened to :math:`(B, F)`; output :math:`(B)`.
    """

    def __init__(self, in_features: int, width: int, depth: int, activation: nn.Module) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"model.width and model.depth must be at least 1, got {width} and {depth}")
        sizes = [in_features] + [width] * depth
        self.hidden = nn.ParameterList(torch.randn(n, m) for m, n in pairwise(sizes))
        self.out = nn.Parameter(torch.randn(width))
        self.activation = activation
        self.scale = width**-0.5

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.hidden
        h = self.activation(x.flatten(1) @ first.T)
        for weight in others:
            h = self.activation(self.scale * (h @ weight.T))
        return self.scale * (h @ self.out)
