r"""Graph convolution without weights or activations between the hops, as an encoder of nodes.

.. math:: H_0 = X W + b, \quad H_l = \hat A H_{l-1}, \quad \hat A = \tilde D^{-1/2} (A + I) \tilde D^{-1/2}
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.nn.propagation import propagate
from replicata.nn.sparse import SparseLinear


class PureGCN(nn.Module):
    """One linear layer, then propagation.

    Args:
        in_features: Features per node :math:`F`.
        hidden: Width :math:`C` of the node vectors.
        layers: Number of hops :math:`L`.
        input_dropout: On the features.
        dropout: After the linear layer.
        tail_dropout: On the last hop.
        jumping: Whether the output is the sum of the hops :math:`H_1 \\dots H_L`, each times a learnable scalar that
            starts standard normal; otherwise it is :math:`H_L`.

    Shapes:
        ``x`` :math:`(N, F)`, dense or sparse CSR, and ``adj`` :math:`(N, N)` CSR to :math:`(N, C)`.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        layers: int = 1,
        *,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        tail_dropout: float = 0.0,
        jumping: bool = False,
    ) -> None:
        if layers < 1:
            raise ValueError(f"model.layers must be at least 1, got {layers}")
        for name, value in (("input_dropout", input_dropout), ("dropout", dropout), ("tail_dropout", tail_dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"model.{name} must be in [0, 1), got {value}")
        super().__init__()
        self.linear = SparseLinear(in_features, hidden, input_dropout)
        self.scale = nn.Parameter(torch.randn(layers)) if jumping else None
        self.depth, self.dropout, self.tail_dropout = layers, dropout, tail_dropout

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        hops = propagate(adj, F.dropout(self.linear(x), self.dropout, self.training), self.depth)[1:]
        last = F.dropout(hops[-1], self.tail_dropout, self.training)
        if self.scale is None:
            return last
        return torch.einsum("l,lnc->nc", self.scale[:-1], hops[:-1]) + self.scale[-1] * last
