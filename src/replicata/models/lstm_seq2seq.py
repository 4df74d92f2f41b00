"""An encoder-decoder of two LSTMs that reads points and names some of them by a fixed dictionary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from replicata.errors import UserError
from replicata.nn.decoding import State
from replicata.nn.initialise import uniform
from replicata.nn.pointer_scores import PointerScores


class LSTMSeq2Seq(nn.Module):
    r"""Sutskever, Vinyals, Le, NeurIPS 2014, and with attention Bahdanau, Cho, Bengio, ICLR 2015, from points to slots.

    Slot 0 ends the output, slot :math:`j` is the :math:`j`-th point. The output layer has a row for each of them, so
    more than ``max_points`` points cannot be named; of fewer points the slots that are not there have no share in the
    softmax. The decoder starts from the encoder's last state and reads the slot it wrote last, by an embedding and by
    its coordinates; at first those of slot 0, which are learned.

    With attention, the decoder's state :math:`d_t` weighs the encoder's states,
    :math:`d'_t = \sum_j \mathrm{softmax}_j(v^\top \tanh(W_1 e_j + W_2 d_t))\, e_j`; the output is made from
    :math:`[d_t; d'_t]`, and the next step reads :math:`d'_t` as well.

    Args:
        max_points: Points of the dictionary.
        in_features: Coordinates :math:`F` of a point.
        hidden: Width :math:`H` of both LSTMs and of the attention.
        embedding: Width of the embedded slots.
        attention: Whether the decoder attends to the encoder.
        bound: All parameters start uniform in [-bound, bound].

    Shapes:
        - ``forward``: points :math:`(B, n, F)`, targets :math:`(B, T)` (slots, negative behind the end) -> logits
          :math:`(B, T, n + 1)`;
        - ``begin``, ``step``: as :func:`~replicata.nn.decoding.beam_search` wants them.

    Raises:
        UserError: for more points than there are in the dictionary.
    """

    def __init__(
        self,
        max_points: int,
        *,
        in_features: int = 2,
        hidden: int = 128,
        embedding: int = 32,
        attention: bool = False,
        bound: float = 0.08,
    ) -> None:
        if max_points < 1:
            raise ValueError(f"model.max_points must be at least 1, got {max_points}")
        super().__init__()
        self.max_points = max_points
        self.encoder = nn.LSTM(in_features, hidden, batch_first=True)
        self.embedding = nn.Embedding(max_points + 1, embedding)
        self.go = nn.Parameter(torch.empty(in_features))
        self.attention = PointerScores(hidden, hidden, hidden) if attention else None
        read, wide = (hidden, 2 * hidden) if attention else (0, hidden)
        self.decoder = nn.LSTM(in_features + embedding + read, hidden, batch_first=True)
        self.output = nn.Linear(wide, max_points + 1)
        uniform(self, bound)

    def forward(self, points: Tensor, targets: Tensor) -> Tensor:
        """Logits of every step when the decoder is fed the true slots."""
        memory, state = self.begin(points)
        before = nn.functional.pad(targets[:, :-1].clamp(min=0), (1, 0))
        if self.attention is None:
            outputs, _ = self.decoder(self.read(before, memory[0]), lstm_state(state))
        else:
            made = []
            for slots in before.unbind(1):
                output, state = self.advance(slots, state, memory)
                made.append(output)
            outputs = torch.cat(made, 1)
        return self.output(outputs)[:, :, : points.shape[1] + 1]

    def begin(self, points: Tensor) -> tuple[State, State]:
        """What the decoder reads of the points, and its state before the first step."""
        n = points.shape[1]
        if n > self.max_points:
            raise UserError(
                f"a dictionary of {self.max_points} points has no output for {n}: set model.max_points, or"
                f" data.val_lengths and data.test_lengths to at most {self.max_points}"
            )
        states, (h, c) = self.encoder(points)
        coordinates = torch.cat([self.go.expand(len(points), 1, -1), points], 1)
        if self.attention is None:
            return (coordinates,), (h[0], c[0])
        return (coordinates, states, self.attention.keys(states)), (h[0], c[0], torch.zeros_like(h[0]))

    def step(self, slots: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        """Read one slot a row :math:`(B)`, and write logits :math:`(B, n + 1)`."""
        output, state = self.advance(slots, state, memory)
        return self.output(output[:, 0])[:, : memory[0].shape[1]], state

    def advance(self, slots: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        """One step of the decoder: what the output is made from, :math:`(B, 1, H)` or twice as wide."""
        read = self.read(slots[:, None], memory[0])
        if self.attention is None:
            output, (h, c) = self.decoder(read, lstm_state(state))
            return output, (h[0], c[0])
        _, states, keys = memory
        output, (h, c) = self.decoder(torch.cat([read, state[2][:, None]], 2), lstm_state(state))
        context = self.attention.read(self.attention(output, keys), states)
        return torch.cat([output, context], 2), (h[0], c[0], context[:, 0])

    def read(self, slots: Tensor, coordinates: Tensor) -> Tensor:
        """Coordinates and embeddings of slots :math:`(B, T)`."""
        where = coordinates.gather(1, slots[:, :, None].expand(-1, -1, coordinates.shape[2]))
        return torch.cat([where, self.embedding(slots)], 2)


def lstm_state(state: State) -> tuple[Tensor, Tensor]:
    """The first two tensors :math:`(B, H)` of a state, as :class:`torch.nn.LSTM` takes them."""
    return state[0][None].contiguous(), state[1][None].contiguous()
