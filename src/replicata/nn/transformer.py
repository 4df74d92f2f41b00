r"""Transformer blocks: attention with rotary positions where wanted, and the pre-norm residual block around a mixer.

Vaswani et al., Attention Is All You Need, 2017. https://arxiv.org/abs/1706.03762
Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021. https://arxiv.org/abs/2104.09864
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    r"""Multi-head self-attention, with projections of their own for queries, keys, values and output.

    Args:
        width: :math:`D`, a multiple of ``heads``.
        heads: :math:`H`.
        causal: Whether a place sees only itself and what is before it.
        rotary: Whether queries and keys are turned by their place (:func:`rotate`), so that their products depend on
            the distance alone. Needs an even :math:`D / H`.

    Shapes:
        - input and output: :math:`(B, T, D)`.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False, rotary: bool = False) -> None:
        if heads < 1 or width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        if rotary and (width // heads) % 2:
            raise ValueError(f"rotary positions need heads of even width, got {width} / {heads}")
        super().__init__()
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        if self.rotary:
            query, key = rotate(query), rotate(key)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    r"""Pre-norm residual block: :math:`x + \mathrm{mixer}(\mathrm{LN}(x))`, then the same with a two-layer network.

    Args:
        mixer: What mixes the places, :math:`(B, T, D) \to (B, T, D)`.
        width: :math:`D`.
        hidden: Width of the network's hidden layer, a GELU.
        dropout: Probability on what each part adds.
    """

    def __init__(self, mixer: nn.Module, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_mixer, self.mixer = nn.LayerNorm(width), mixer
        self.norm_mlp = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.mixer(self.norm_mixer(x)))
        return x + self.dropout(self.contract(F.gelu(self.expand(self.norm_mlp(x)))))


def rotate(x: Tensor, base: float = 10000.0) -> Tensor:
    r"""Turn the pair :math:`(x_i, x_{i + d/2})` at place :math:`t` by the angle :math:`t \cdot \mathrm{base}^{-2i/d}`.

    Args:
        x: :math:`(*, T, d)`, :math:`d` even.
        base: Of the angles.
    """
    steps, width = x.shape[-2:]
    speed = base ** (-torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width)
    angle = torch.arange(steps, device=x.device, dtype=torch.float32)[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
