"""An encoder-decoder of two GRUs over tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GRUSeq2Seq(nn.Module):
    r"""Reads a source sequence into one vector and writes the target from it, token by token.

    Padding stands *before* the source, so that the encoder's last state has read all of it and a source has one
    shape whatever its length.

    Args:
        vocab_size: Tokens :math:`V`, special ones included.
        start, end: Tokens that begin and end a target.
        max_length: Steps :math:`T` after which greedy decoding stops by itself.
        embedding: Width of the token embeddings, shared by both sides.
        hidden: Width of both GRUs.

    Shapes:
        - ``forward`` (greedy): one source :math:`(1, S)` -> logits of the steps that were made, :math:`(1, t, V)`, and
          the path, an integer tensor: the number of steps :math:`t`;
        - ``teacher``: source :math:`(B, S)`, decoder inputs :math:`(B, T)` -> logits :math:`(B, T, V)`.
    """

    def __init__(
        self, vocab_size: int, start: int, end: int, *, max_length: int = 12, embedding: int = 32, hidden: int = 96
    ) -> None:
        if max_length < 1:
            raise ValueError(f"model.max_length must be at least 1, got {max_length}")
        super().__init__()
        self.start, self.end, self.max_length = start, end, max_length
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.encoder = nn.GRU(embedding, hidden, batch_first=True)
        self.decoder = nn.GRUCell(embedding, hidden)
        self.output = nn.Linear(hidden, vocab_size)

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encode(source)
        token = torch.full((1,), self.start)
        logits = torch.zeros(1, 0, self.output.out_features)
        path = torch.tensor(0)
        for t in range(self.max_length):
            hidden = self.decoder(self.embedding(token), hidden)
            step = self.output(hidden)
            token = step.argmax(1)
            logits = torch.cat([logits, step[:, None]], dim=1)
            path = torch.tensor(t + 1)
            if token == self.end:
                break
        return logits, path

    def encode(self, source: Tensor) -> Tensor:
        """The encoder's last state :math:`(B, H)`."""
        return self.encoder(self.embedding(source))[1][0]

    def teacher(self, source: Tensor, tokens: Tensor) -> Tensor:
        """Logits of every step when the decoder is fed the true tokens."""
        hidden = self.encode(source)
        states = []
        for embedded in self.embedding(tokens).unbind(1):
            hidden = self.decoder(embedded, hidden)
            states.append(hidden)
        return self.output(torch.stack(states, dim=1))
