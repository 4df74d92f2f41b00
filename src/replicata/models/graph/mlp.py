"""MLP over node features, blind to the graph."""

from __future__ import annotations

from torch import Tensor, nn

from replicata.nn.sparse import SparseLinear


class MLP(nn.Module):
    """Dropout, linear, ReLU, dropout, linear, as the citation-graph papers use it.

    Args:
        in_features: Features per node.
        num_classes: Number of outputs per node.
        hidden: Width of the hidden layer.
        dropout: Before each of the two linear layers.

    Shapes:
        ``x`` :math:`(N, F)`, dense or sparse CSR, to :math:`(N, C)`; ``adj`` is not used.
    """

    depth = 0

    def __init__(self, in_features: int, num_classes: int, hidden: int = 64, dropout: float = 0.5) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        super().__init__()
        self.input = SparseLinear(in_features, hidden, dropout)
        self.output = SparseLinear(hidden, num_classes, dropout)

    def forward(self, x: Tensor, adj: Tensor | None = None) -> Tensor:
        return self.output(self.input(x).relu())
