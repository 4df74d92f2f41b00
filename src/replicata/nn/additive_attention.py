"""Additive attention: Bahdanau, Cho, Bengio, ICLR 2015. https://arxiv.org/abs/1409.0473"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    r"""Scores :math:`u_j = v^\top \tanh(W_1 m_j + W_2 q)` of the places of a memory, for one query a row.

    Args:
        query: Width of the query.
        memory: Width of the memory.
        units: Width :math:`A` of the scorer.

    Shapes:
        - ``keys``: memory :math:`(B, S, M)` -> :math:`(B, S, A)`, once a sequence;
        - ``forward``: query :math:`(B, Q)`, keys :math:`(B, S, A)` -> scores :math:`(B, S)`, before the softmax;
        - ``read``: scores, memory -> context :math:`(B, M)`.
    """

    def __init__(self, query: int, memory: int, units: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory, units, bias=False)
        self.query = nn.Linear(query, units, bias=False)
        self.score = nn.Linear(units, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        return self.key(memory)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        return self.score(torch.tanh(keys + self.query(query)[:, None])).squeeze(-1)

    def read(self, scores: Tensor, memory: Tensor) -> Tensor:
        return torch.einsum("bs,bsm->bm", scores.softmax(-1), memory)
