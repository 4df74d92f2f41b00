"""Additive attention for all queries of a sequence at once."""

from __future__ import annotations

from torch import Tensor

from replicata.nn.additive_attention import AdditiveAttention


class PointerScores(AdditiveAttention):
    r"""Scores :math:`u_{tj} = v^\top \tanh(W_1 m_j + W_2 q_t)` of a memory's places, for queries :math:`q_1 \dots q_T`.

    The same numbers and parameters as :class:`~replicata.nn.additive_attention.AdditiveAttention` query by query. They
    are computed as :math:`2 v^\top \sigma(2 W_1 m_j + 2 W_2 q_t) - v^\top 1`: of all that is computed,
    these :math:`B T S A` activations cost most, and on a CPU a sigmoid takes a third of the time of a tanh.

    Args:
        query, memory, units: as there.

    Shapes:
        - ``keys``: memory :math:`(B, S, M)` -> :math:`(B, S, A)`;
        - ``forward``: queries :math:`(B, T, Q)`, keys :math:`(B, S, A)` -> :math:`(B, T, S)`, before the softmax;
        - ``read``: scores :math:`(B, T, S)`, memory -> contexts :math:`(B, T, M)`.
    """

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        inner = (2 * keys)[:, None] + (2 * self.query(query))[:, :, None]
        return 2 * self.score(inner.sigmoid()).squeeze(-1) - self.score.weight.sum()

    def read(self, scores: Tensor, memory: Tensor) -> Tensor:
        return scores.softmax(-1) @ memory
