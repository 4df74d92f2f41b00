"""A classifier of sequences: a small Transformer encoder over tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TransformerClassifier(nn.Module):
    r"""Tokens -> embeddings and learned positions -> pre-norm encoder layers -> mean over the steps -> logits.

    Tokens may be soft: a distribution over the vocabulary is embedded as the mean of the embeddings, so that gradients
    reach whatever wrote it.

    Args:
        vocab_size: Tokens :math:`V`, special ones included.
        num_classes: Classes :math:`C`.
        max_length: Most steps :math:`T`.
        width: Width :math:`D` of embeddings and layers.
        heads: Attention heads.
        layers: Encoder layers; their feed-forward part is four times as wide.
        dropout: Probability within the layers and on the pooled vector.

    Shapes:
        - ``tokens``: :math:`(B, T)` numbers or :math:`(B, T, V)` distributions;
        - ``lengths``: :math:`(B)`, at least 1, where what follows them is padding and is not to be read;
        - output: :math:`(B, C)`; :meth:`features`: :math:`(B, D)`.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        *,
        max_length: int = 64,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        if min(vocab_size, num_classes, max_length, width, heads, layers) < 1 or width % heads:
            raise ValueError(f"model.width={width} must be a multiple of model.heads={heads}, and all sizes at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = nn.Parameter(0.02 * torch.randn(max_length, width))
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.output(self.features(tokens, lengths))

    def features(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The pooled vector that the logits are a linear map of, :math:`(B, D)`."""
        soft = tokens.is_floating_point()
        states = tokens @ self.embedding.weight if soft else self.embedding(tokens)
        steps = states.shape[1]
        if steps > len(self.position):
            raise ValueError(f"model.max_length={len(self.position)} is less than the {steps} tokens of a text")
        padding = None
        if lengths is not None:
            padding = torch.arange(steps, device=tokens.device) >= lengths[:, None].to(tokens.device)
        states = self.encoder(states + self.position[:steps], src_key_padding_mask=padding)
        if padding is None:
            return self.dropout(states.mean(1))
        kept = states.masked_fill(padding[..., None], 0).sum(1)
        return self.dropout(kept / (~padding).sum(1, keepdim=True))
