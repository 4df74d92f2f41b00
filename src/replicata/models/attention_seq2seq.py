"""An encoder-decoder of two GRUs with attention, whose decoder is told a label."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from replicata.nn.additive_attention import AdditiveAttention


class State(NamedTuple):
    """The decoder between two steps: the cell's state and the attentional vector, :math:`(B, H)` each."""

    cell: Tensor
    attentional: Tensor


class AttentionSeq2Seq(nn.Module):
    r"""Rewrites a sequence under a label.

    The encoder's last state without its first :math:`c` entries is the content :math:`z`; the decoder starts from
    :math:`[c(y), z]` with a linear code of the label. At each step the cell reads the last token and the last
    attentional vector, attends to the encoder's states by its own state :math:`s` (additive scores), and writes by
    the attentional vector :math:`a = W [s; \mathrm{context}]`.

    It decodes in three ways: fed the true tokens, greedily, or softly: each step is a Gumbel-softmax sample, a
    distribution over the vocabulary that the next step reads as the mean of the embeddings, so that gradients of
    whatever reads the samples reach all steps.

    Args:
        vocab_size: Tokens :math:`V`.
        start: Token that the decoder reads first.
        reserved: So many of the first tokens are never written.
        embedding: Width of the token embeddings, shared by both sides.
        hidden: Width :math:`H` of both GRUs and of the attention.
        code: Width :math:`c` of the label's code, less than :math:`H`.
        tied: Whether tokens are written by the embeddings they are read by.
        dropout: Probability on the inputs and outputs of the decoder's cell.

    Shapes:
        - source :math:`(B, S)` tokens, labels :math:`(B)`;
        - ``forward``: with tokens :math:`(B, T)` -> logits :math:`(B, T, V)`;
        - ``greedy``: tokens :math:`(B, T)` and logits; ``sample``: distributions :math:`(B, T, V)`.
    """

    def __init__(
        self,
        vocab_size: int,
        start: int,
        *,
        reserved: int = 0,
        embedding: int = 64,
        hidden: int = 128,
        code: int = 32,
        tied: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if not 0 < code < hidden:
            raise ValueError(f"model.code must be between 1 and model.hidden - 1, got {code} of {hidden}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        if not (0 <= start < vocab_size and 0 <= reserved < vocab_size):
            raise ValueError(f"model.start and reserved must be tokens of {vocab_size}, got {start} and {reserved}")
        super().__init__()
        self.start, self.reserved, self.code_width = start, reserved, code
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.encoder = nn.GRU(embedding, hidden, batch_first=True)
        self.code = nn.Linear(1, code)
        self.cell = nn.GRUCell(embedding + hidden, hidden)
        self.attention = AdditiveAttention(hidden, hidden, hidden)
        self.combine = nn.Linear(2 * hidden, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(embedding if tied else hidden, vocab_size)
        self.project = nn.Linear(hidden, embedding, bias=False) if tied else nn.Identity()
        if tied:
            nn.init.normal_(self.embedding.weight, std=embedding**-0.5)  # logits of a spread near one
            self.output.weight = self.embedding.weight

    def forward(self, source: Tensor, labels: Tensor, tokens: Tensor) -> Tensor:
        """Logits of every step when the decoder is fed the true tokens."""
        memory, keys, state = self.encode(source, labels)
        first = torch.full_like(tokens[:, :1], self.start)
        written = []
        for token in self.embedding(torch.cat([first, tokens[:, :-1]], dim=1)).unbind(1):
            state = self.step(token, state, memory, keys)
            written.append(state.attentional)
        return self.logits(torch.stack(written, dim=1))

    def greedy(self, source: Tensor, labels: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The most probable token at each step, and the logits of all."""
        memory, keys, state = self.encode(source, labels)
        token = torch.full_like(source[:, 0], self.start)
        tokens, logits = [], []
        for _ in range(steps):
            state = self.step(self.embedding(token), state, memory, keys)
            logits.append(self.logits(state.attentional))
            token = logits[-1].argmax(-1)
            tokens.append(token)
        return torch.stack(tokens, dim=1), torch.stack(logits, dim=1)

    def sample(
        self, source: Tensor, labels: Tensor, steps: int, temperature: float, generator: torch.Generator
    ) -> Tensor:
        """Gumbel-softmax samples, the noise drawn on the CPU from the generator."""
        memory, keys, state = self.encode(source, labels)
        shape = (len(source), steps, self.output.out_features)
        noise = -torch.empty(shape).exponential_(generator=generator).log().to(memory)
        read = self.embedding(torch.full_like(source[:, 0], self.start))
        samples = []
        for gumbel in noise.unbind(1):
            state = self.step(read, state, memory, keys)
            soft = ((self.logits(state.attentional) + gumbel) / temperature).softmax(-1)
            read = soft @ self.embedding.weight
            samples.append(soft)
        return torch.stack(samples, dim=1)

    # Parts ---------------------------------------------------------------------------------

    def encode(self, source: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, State]:
        """The memory, its keys, and the decoder before its first step."""
        memory, last = self.encoder(self.embedding(source))
        code = self.code(labels[:, None].to(memory))
        cell = torch.cat([code, last[0, :, self.code_width :]], dim=1)
        return memory, self.attention.keys(memory), State(cell, torch.zeros_like(cell))

    def step(self, token: Tensor, state: State, memory: Tensor, keys: Tensor) -> State:
        """Read one embedded token."""
        cell = self.cell(self.dropout(torch.cat([token, state.attentional], dim=1)), state.cell)
        read = self.dropout(cell)
        context = self.attention.read(self.attention(read, keys), memory)
        return State(cell, self.combine(torch.cat([read, context], dim=1)))

    def logits(self, attentional: Tensor) -> Tensor:
        logits = self.output(self.project(attentional))
        if self.reserved:
            barred = torch.arange(logits.shape[-1], device=logits.device) < self.reserved
            logits = logits.masked_fill(barred, float("-inf"))
        return logits
