r"""SGC: simplifying graph convolutional networks.

Wu, Zhang, de Souza, Fifty, Yu, Weinberger, ICML 2019. https://arxiv.org/abs/1902.07153

.. math:: Y = \hat A^K X W + b
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from replicata.nn.propagation import propagate
from replicata.nn.sparse import SparseLinear


class SGC(nn.Module):
    r"""A linear classifier on propagated features.

    Evaluated as :math:`\hat A^K (X W)`: the same function, but what is propagated has as many columns as there
    are classes, not features, and :math:`X` stays sparse.

    Args:
        in_features: Features per node.
        num_classes: Number of outputs per node.
        hops: :math:`K`.
        dropout: On the features.

    Shapes:
        ``x`` :math:`(N, F)`, dense or sparse CSR, and ``adj`` :math:`(N, N)` CSR to :math:`(N, C)`.
    """

    def __init__(self, in_features: int, num_classes: int, hops: int = 2, dropout: float = 0.0) -> None:
        if hops < 0:
            raise ValueError(f"model.hops must be >= 0, got {hops}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        super().__init__()
        self.linear = SparseLinear(in_features, num_classes, dropout, bias=False)
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.depth = hops

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        return propagate(adj, self.linear(x), self.depth)[-1] + self.bias
