r"""Link heuristics: sums over common neighbours with weights that fall with their degree.

.. math:: s(i, j) = \sum_{u \in N(i) \cap N(j)} w(d_u)

The entry :math:`(i, j)` of the sparse product :math:`A \, \mathrm{diag}(w) \, A`, worked out for the pairs alone.

Survey: Liben-Nowell, Kleinberg, JASIST 2007. https://doi.org/10.1002/asi.20591
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from replicata.nn.neighbours import Neighbours, pool


class CommonNeighbours(nn.Module):
    """:math:`w(d) = 1`.

    Shapes:
        ``pairs`` :math:`(B, 2)` to scores :math:`(B)` in double precision.
    """

    def weights(self, degree: Tensor) -> Tensor:
        """:math:`w(d)` of degrees :math:`(N)`; common neighbours of two nodes have a degree of two at least."""
        return torch.ones_like(degree)

    def forward(self, neighbours: Neighbours, pairs: Tensor) -> Tensor:
        weights = self.weights(neighbours.degree.double())
        return pool(weights[:, None], neighbours.common(pairs), len(pairs))[:, 0]


class AdamicAdar(CommonNeighbours):
    r""":math:`w(d) = 1 / \log d`. Adamic, Adar, Social Networks 2003."""

    def weights(self, degree: Tensor) -> Tensor:
        return degree.clamp(min=2).log().reciprocal()


class ResourceAllocation(CommonNeighbours):
    """:math:`w(d) = 1 / d`. Zhou, Lü, Zhang, European Physical Journal B 2009."""

    def weights(self, degree: Tensor) -> Tensor:
        return degree.clamp(min=1).reciprocal()


class LinkHeuristics(nn.ModuleDict):
    """All three by name: ``cn``, ``aa``, ``ra``."""

    def __init__(self) -> None:
        super().__init__({"cn": CommonNeighbours(), "aa": AdamicAdar(), "ra": ResourceAllocation()})
