"""A classifier of sequences: a stack of recurrent layers over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from replicata.nn.lstm import LSTM


class RNNClassifier(nn.Module):
    r"""Tokens -> embeddings or one-hots -> recurrent layers -> one vector a sequence -> logits.

    Tokens may be soft: a distribution over the vocabulary is embedded as the mean of the embeddings, so that gradients
    reach whatever wrote it.

    Args:
        vocab_size: Tokens :math:`V`, special ones included.
        num_classes: Classes :math:`C`.
        embedding: Width of the embeddings; ``None``: the one-hots themselves.
        cell: ``lstm`` or ``gru``.
        hidden: Width :math:`H` of every layer, and direction.
        layers: Number of layers.
        bidirectional: Whether layers read in both directions; one value for all, or one for each.
        pooling: ``last``: the state of each direction after its last step; ``mean``: the mean over the steps.
        dropout: Probability on the inputs of every layer but the first, and on the pooled vector.
        activation: In place of an LSTM's hyperbolic tangents (see :class:`~replicata.nn.lstm.LSTM`); one value for all
            layers or one for each.

    Shapes:
        - ``tokens``: :math:`(B, T)` numbers or :math:`(B, T, V)` distributions;
        - ``lengths``: :math:`(B)`, at least 1, where what follows them is padding and is not to be read;
        - output: :math:`(B, C)`; :meth:`features`: :math:`(B, D)`, :math:`D = H` or :math:`2H`.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        *,
        embedding: int | None = None,
        cell: Literal["lstm", "gru"] = "lstm",
        hidden: int = 64,
        layers: int = 1,
        bidirectional: bool | Sequence[bool] = True,
        pooling: Literal["last", "mean"] = "last",
        dropout: float = 0.0,
        activation: str | Sequence[str] = "tanh",
    ) -> None:
        if cell not in ("lstm", "gru"):
            raise ValueError(f"model.cell must be lstm or gru, got {cell!r}")
        if pooling not in ("last", "mean"):
            raise ValueError(f"model.pooling must be last or mean, got {pooling!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        if min(vocab_size, num_classes, hidden, layers, 1 if embedding is None else embedding) < 1:
            raise ValueError("model: vocab_size, num_classes, embedding, hidden and layers must be at least 1")
        both = [bidirectional] * layers if isinstance(bidirectional, bool) else list(bidirectional)
        activations = [activation] * layers if isinstance(activation, str) else list(activation)
        if not len(both) == len(activations) == layers:
            raise ValueError(f"model.bidirectional and activation must have one value, or {layers}, one for each layer")
        if cell == "gru" and set(activations) != {"tanh"}:
            raise ValueError(f"model.activation must be tanh for cell=gru, got {activation!r}")
        super().__init__()
        self.vocab_size, self.pooling = vocab_size, pooling
        self.embedding = None if embedding is None else nn.Embedding(vocab_size, embedding)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList()
        width = vocab_size if embedding is None else embedding
        for two, function in zip(both, activations, strict=True):
            if function == "tanh":
                plain = nn.LSTM if cell == "lstm" else nn.GRU
                self.layers.append(plain(width, hidden, batch_first=True, bidirectional=two))
            else:
                self.layers.append(LSTM(width, hidden, bidirectional=two, activation=function))
            width = 2 * hidden if two else hidden
        self.hidden, self.both = hidden, both
        self.output = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.output(self.features(tokens, lengths))

    def embed(self, tokens: Tensor) -> Tensor:
        """Inputs of the first layer, :math:`(B, T, E)`; of distributions, the mean input."""
        if tokens.is_floating_point():
            return tokens if self.embedding is None else tokens @ self.embedding.weight
        if self.embedding is None:
            return F.one_hot(tokens, self.vocab_size).to(self.output.weight.dtype)
        return self.embedding(tokens)

    def features(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The pooled vector that the logits are a linear map of, :math:`(B, D)`."""
        states = self.embed(tokens)
        for number, layer in enumerate(self.layers):
            states = self._read(layer, self.dropout(states) if number else states, lengths)
        return self.dropout(self._pool(states, lengths))

    def _read(self, layer: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            states = layer(x)
            return states if isinstance(states, Tensor) else states[0]
        if isinstance(layer, LSTM):
            raise TypeError("model: lengths are supported with activation=tanh only")
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    def _pool(self, states: Tensor, lengths: Tensor | None) -> Tensor:
        if self.pooling == "mean":  # what follows the lengths is zero
            return states.mean(1) if lengths is None else states.sum(1) / lengths[:, None].to(states)
        rows = torch.arange(len(states), device=states.device)
        last = states[:, -1] if lengths is None else states[rows, lengths.to(states.device) - 1]
        if not self.both[-1]:
            return last
        return torch.cat([last[:, : self.hidden], states[:, 0, self.hidden :]], dim=1)
