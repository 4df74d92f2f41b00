r"""GCN: semi-supervised classification with graph convolutional networks.

Kipf, Welling, ICLR 2017. https://arxiv.org/abs/1609.02907

.. math:: H_{l} = \sigma(\hat A \, \mathrm{dropout}(H_{l-1}) \, W_l + b_l)
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from replicata.nn.sparse import SparseLinear, matmul


class GraphConvolution(SparseLinear):
    """One layer: dropout, weights, propagation, bias; Glorot-uniform weights and zero bias, as in the GCN paper."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:  # type: ignore[override]
        return matmul(adj, self.weigh(x)) + self.bias


class GCN(nn.Module):
    """Plain stack of graph convolutions with ReLU between them: no residuals, no normalisation.

    Args:
        in_features: Features per node.
        num_classes: Number of outputs per node.
        layers: Depth; each layer has weights and one propagation.
        hidden: Width of the hidden layers.
        dropout: Before every layer's weights.

    Shapes:
        ``x`` :math:`(N, F)`, dense or sparse CSR, and ``adj`` :math:`(N, N)` CSR to :math:`(N, C)`.
    """

    def __init__(
        self, in_features: int, num_classes: int, layers: int = 2, hidden: int = 64, dropout: float = 0.5
    ) -> None:
        if layers < 1:
            raise ValueError(f"model.layers must be at least 1, got {layers}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        super().__init__()
        widths = [in_features, *[hidden] * (layers - 1), num_classes]
        self.layers = nn.ModuleList(GraphConvolution(a, b, dropout) for a, b in pairwise(widths))
        self.depth = layers

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        h = self.layers[0](x, adj)
        for layer in self.layers[1:]:
            h = layer(h.relu(), adj)
        return h
