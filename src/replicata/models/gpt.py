"""GPT: a decoder-only Transformer that predicts the next token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from replicata.nn.transformer import Block, SelfAttention


class GPT(nn.Module):
    r"""Embeddings, causal pre-norm blocks, a last norm, and a linear head that is not tied to the embeddings.

    Weights are normal at the start, those that write to the residual stream with standard deviation
    :math:`2 / (L \sqrt D)` and the others with :math:`\sqrt{2 / 5D}`, as in GPT-NeoX; biases are zero.

    Args:
        vocab_size: Tokens :math:`V`.
        context: Most tokens :math:`T` that are read at once.
        layers: :math:`L`.
        width: :math:`D`; the blocks' networks are four times as wide.
        heads: Attention heads.
        positions: ``learned`` embeddings (GPT-2) or ``rotary`` (GPT-NeoX).
        dropout: Probability on embeddings and on what the blocks add.

    Shapes:
        - tokens: :math:`(B, T)`, output: logits :math:`(B, T, V)`.

    Raises:
        ValueError: if a size is not positive, or a text is longer than ``context``.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        *,
        layers: int,
        width: int,
        heads: int,
        positions: Literal["learned", "rotary"] = "learned",
        dropout: float = 0.0,
    ) -> None:
        if min(vocab_size, context, layers, width, heads) < 1 or width % heads:
            raise ValueError(f"model.width={width} must be a multiple of model.heads={heads}, and all sizes at least 1")
        if positions not in ("learned", "rotary"):
            raise ValueError(f"model.positions must be learned or rotary, got {positions!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = nn.Parameter(torch.empty(context, width)) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        rotary = positions == "rotary"
        self.blocks = nn.Sequential(
            *(
                Block(SelfAttention(width, heads, causal=True, rotary=rotary), width, 4 * width, dropout)
                for _ in range(layers)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self._start(layers, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens))))

    def embed(self, tokens: Tensor) -> Tensor:
        """What the first block reads, :math:`(B, T, D)`."""
        steps = tokens.shape[1]
        if steps > self.context:
            raise ValueError(f"model.context={self.context} is less than the {steps} tokens of a text")
        states = self.embedding(tokens)
        if self.position is not None:
            states = states + self.position[:steps]
        return self.dropout(states)

    def _start(self, layers: int, width: int) -> None:
        inner, outer = (2 / (5 * width)) ** 0.5, 2 / (layers * width**0.5)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.ndim > 1:
                last = name.endswith(("mixer.out.weight", "contract.weight"))
                nn.init.normal_(weight, std=outer if last else inner)
