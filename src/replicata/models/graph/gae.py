r"""GAE: graph auto-encoders for links.

Kipf, Welling, NeurIPS Workshop on Bayesian Deep Learning 2016. https://arxiv.org/abs/1611.07308

.. math:: H = \mathrm{encoder}(X, A), \quad s(i, j) = h_i^\top h_j \quad\text{or}\quad \mathrm{MLP}(h_i \odot h_j)
"""

from __future__ import annotations

from torch import Tensor, nn

from replicata.models.mlp import MLP


class DotDecoder(nn.Module):
    """The inner product of the two node vectors :math:`(B, C)`, which has no parameters."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1)


class MLPDecoder(MLP):
    """An MLP with one output on the elementwise product of the two node vectors :math:`(B, C)`."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(a * b)[:, 0]


class GAE(nn.Module):
    """A scorer of links from two node vectors that know nothing of each other.

    Args:
        encoder: ``(x, adj) -> h``: node vectors :math:`(N, C)`.
        decoder: ``(h_i, h_j) -> scores`` :math:`(B)`, symmetric.

    Shapes:
        ``pairs``: :math:`(B, 2)`.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor, adj: Tensor) -> Tensor:
        h: Tensor = self.encoder(x, adj)
        return h

    def forward(self, h: Tensor, pairs: Tensor) -> Tensor:
        scores: Tensor = self.decoder(h[pairs[:, 0]], h[pairs[:, 1]])
        return scores
