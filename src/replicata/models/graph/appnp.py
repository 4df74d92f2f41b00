r"""APPNP: predict then propagate.

Klicpera, Bojchevski, Günnemann, ICLR 2019. https://arxiv.org/abs/1810.05997

.. math:: H_0 = \mathrm{MLP}(X), \quad H_l = (1 - a) \hat A H_{l-1} + a H_0
"""

from __future__ import annotations

from torch import Tensor

from replicata.models.graph.mlp import MLP
from replicata.nn.propagation import pagerank


class APPNP(MLP):
    r"""An MLP whose outputs are propagated by personalised PageRank.

    Args:
        in_features, num_classes, hidden, dropout: See :class:`~replicata.models.graph.mlp.MLP`.
        hops: Steps :math:`K` of the power iteration; 10 in the paper.
        teleport: :math:`a`, the weight of a node's own prediction at every step; 0.1 in the paper.

    Shapes:
        ``x`` :math:`(N, F)`, dense or sparse CSR, and ``adj`` :math:`(N, N)` CSR to :math:`(N, C)`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        hops: int = 10,
        teleport: float = 0.1,
        hidden: int = 64,
        dropout: float = 0.5,
    ) -> None:
        if hops < 0:
            raise ValueError(f"model.hops must be >= 0, got {hops}")
        if not 0 <= teleport <= 1:
            raise ValueError(f"model.teleport must be in [0, 1], got {teleport}")
        super().__init__(in_features, num_classes, hidden, dropout)
        self.depth, self.teleport = hops, teleport

    def forward(self, x: Tensor, adj: Tensor | None = None) -> Tensor:
        assert adj is not None
        return pagerank(adj, super().forward(x), self.depth, self.teleport)
