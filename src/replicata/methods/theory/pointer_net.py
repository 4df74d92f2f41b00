r"""Ptr-Net: Pointer Networks.

Vinyals, Fortunato, Jaitly, NeurIPS 2015. https://arxiv.org/abs/1506.03134
No official code was published.

An encoder-decoder names its outputs by a dictionary of fixed size. Where an output is one of the inputs, the dictionary
should be the input: the scores by which attention weighs the encoder's states are used as they are, as the distribution
over the input's places. So it has as many outcomes as there are points, with the same parameters for any number of
them. Trained on examples alone, it finds convex hulls, Delaunay triangulations and short tours of points in the plane.

Points :math:`P_1 \dots P_n`, slots :math:`C_1 \dots C_m` of them; the last is the end.

.. math::
    p(C \mid P) &= \prod_{i=1}^{m} p(C_i \mid C_1, \dots, C_{i-1}, P)                                   \quad (1)\\
    e_j &= \mathrm{LSTM}_E(P_1, \dots, P_j), \quad
    d_i = \mathrm{LSTM}_D(P_{C_0}, \dots, P_{C_{i-1}}), \quad \text{from the encoder's last state}      \quad (2)\\
    u^i_j &= v^\top \tanh(W_1 e_j + W_2 d_i), \quad
    p(C_i \mid C_1, \dots, C_{i-1}, P) = \mathrm{softmax}(u^i)                                          \quad (3)

The decoder reads the coordinates of the point that was chosen last, not its number or the encoder's state; no blend of
the encoder's states enters (3). :math:`W_1, W_2, v` have no biases. Training maximises (1) with the true points as
inputs; decoding is greedy or a beam search, and only tours are held to be valid (all this is in
:class:`~replicata.tasks.pointing.Pointing`).

Reconstructed, because the text leaves it open: the end is a slot of its own in front of the points, with a learned
:math:`e_0`; the first input :math:`P_{C_0}` is a learned vector. ``context`` is our ablation: as in the paper's
baseline with attention, a scorer of its own makes a blend :math:`d'_i = \sum_j a^i_j e_j`, :math:`[d_i; d'_i]` takes
the place of :math:`d_i` in (3), and :math:`\mathrm{LSTM}_D` reads :math:`d'_{i-1}` as well.

Departures: the targets of tours are exact, and of the two directions they have the counter-clockwise one. What the
paper's baselines read is not known; ours read the number of the last point and its coordinates, no less than Ptr-Net
(:class:`~replicata.models.lstm_seq2seq.LSTMSeq2Seq`). The laptop study has 128 units and Adam; the paper 256 or 512 and
SGD at 1.0. Both have batches of 128, gradients clipped at norm 2 and parameters from [-0.08, 0.08], biases too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from replicata.nn.decoding import State
from replicata.nn.initialise import uniform
from replicata.nn.pointer_scores import PointerScores
from replicata.tasks.pointing import Pointing


class PointerNetwork(nn.Module):
    r"""Eqs. (1) to (3). Parameters do not depend on the number of points.

    Args:
        in_features: Coordinates :math:`F` of a point.
        hidden: Units :math:`H` of both LSTMs and of the scorer.
        context: Blend the encoder's states into the decoder's: the ablation.
        bound: All parameters start uniform in [-bound, bound].

    Shapes:
        - ``forward``: points :math:`(B, n, F)`, targets :math:`(B, T)` (slots, negative behind the end) -> logits
          :math:`(B, T, n + 1)`; slot 0 is the end, slot :math:`j` is :math:`P_j`;
        - ``begin``, ``step``: as :func:`~replicata.nn.decoding.beam_search` wants them.
    """

    def __init__(self, in_features: int, hidden: int, context: bool, bound: float) -> None:
        super().__init__()
        self.encoder = nn.LSTM(in_features, hidden, batch_first=True)
        self.decoder = nn.LSTM(in_features + (hidden if context else 0), hidden, batch_first=True)
        self.go = nn.Parameter(torch.empty(in_features))  # P_{C_0}
        self.end = nn.Parameter(torch.empty(hidden))  # e_0
        self.pointer = PointerScores(2 * hidden if context else hidden, hidden, hidden)
        self.attention = PointerScores(hidden, hidden, hidden) if context else None
        uniform(self, bound)

    def forward(self, points: Tensor, targets: Tensor) -> Tensor:
        """Logits of every step when the decoder is fed the true points."""
        memory, state = self.begin(points)
        before = nn.functional.pad(targets[:, :-1].clamp(min=0), (1, 0))  # slot 0 begins
        if self.attention is None:  # nothing that a step makes is read by the next: all steps at once
            queries, _ = self.decoder(chosen(memory[0], before), (state[0][None], state[1][None]))  # Eq. (2)
        else:
            made = []
            for slots in before.unbind(1):
                query, state = self.advance(slots, state, memory)
                made.append(query)
            queries = torch.cat(made, 1)
        return self.pointer(queries, memory[1])  # Eq. (3)

    def begin(self, points: Tensor) -> tuple[State, State]:
        r"""What all steps read: inputs :math:`P_0 \dots P_n`, keys :math:`W_1 e_j`; and the decoder's first state."""
        e, (h, c) = self.encoder(points)  # Eq. (2)
        rows = len(points)
        inputs = torch.cat([self.go.expand(rows, 1, -1), points], 1)
        keys = self.pointer.keys(torch.cat([self.end.expand(rows, 1, -1), e], 1))
        if self.attention is None:
            return (inputs, keys), (h[0], c[0])
        return (inputs, keys, e, self.attention.keys(e)), (h[0], c[0], torch.zeros_like(h[0]))

    def step(self, slots: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        """Read the point that was chosen last, :math:`(B)` slots, and point: scores :math:`(B, n + 1)`."""
        query, state = self.advance(slots, state, memory)
        return self.pointer(query, memory[1])[:, 0], state

    def advance(self, slots: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        r"""One step of the decoder: :math:`d_i`, or :math:`[d_i; d'_i]` with blending, :math:`(B, 1, \cdot)`."""
        read = chosen(memory[0], slots[:, None])
        before = (state[0][None].contiguous(), state[1][None].contiguous())
        if self.attention is None:
            d, (h, c) = self.decoder(read, before)
            return d, (h[0], c[0])
        _, _, e, places = memory
        d, (h, c) = self.decoder(torch.cat([read, state[2][:, None]], 2), before)
        blend = self.attention.read(self.attention(d, places), e)  # d'
        return torch.cat([d, blend], 2), (h[0], c[0], blend[:, 0])


class PointerNet(Pointing):
    r"""Ptr-Net on one of the planar problems.

    Args:
        in_features: Coordinates of a point.
        hidden: Units of LSTMs and scorer. Paper: 256 or 512.
        context: Blend the encoder's states into the decoder's, as the paper's method does not.
        bound: Of the parameters at the start. Paper: 0.08.
        **task: see :class:`~replicata.tasks.pointing.Pointing`; there is no other model.
    """

    def __init__(
        self, in_features: int = 2, hidden: int = 128, context: bool = False, bound: float = 0.08, **task: Any
    ) -> None:
        if in_features < 1 or hidden < 1:
            raise ValueError(f"method.in_features and hidden must be at least 1, got {in_features} and {hidden}")
        if bound <= 0:
            raise ValueError(f"method.bound must be above 0, got {bound}")
        super().__init__(model=PointerNetwork(in_features, hidden, context, bound), **task)


def chosen(inputs: Tensor, slots: Tensor) -> Tensor:
    """Rows :math:`(B, T, F)` of inputs :math:`(B, n + 1, F)` that slots :math:`(B, T)` name."""
    return inputs.gather(1, slots[:, :, None].expand(-1, -1, inputs.shape[2]))
