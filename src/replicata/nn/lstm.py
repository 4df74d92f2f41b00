"""An LSTM with a free choice of activation, which torch's own has not."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.errors import nearest

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "elu": F.elu, "relu": F.relu}


class LSTM(nn.Module):
    r"""One LSTM layer whose hyperbolic tangents are another function, as in Keras' ``LSTM(activation=...)``.

    .. math::
        c_t = \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \phi(g_t), \quad h_t = \sigma(o_t) \odot \phi(c_t)

    Weights are those of a one-layer :class:`torch.nn.LSTM`, by name, shape and initialisation. It is several times
    slower, since the steps are made one by one.

    Args:
        in_features: Size of a step's input :math:`F`.
        hidden: Size of the state :math:`H`.
        bidirectional: Whether a second LSTM reads backwards; its outputs stand behind those of the first.
        activation: :math:`\phi`: ``tanh``, ``elu`` or ``relu``.

    Shapes:
        - input: :math:`(B, T, F)`; output: :math:`(B, T, H)`, twice as wide with both directions.
    """

    def __init__(self, in_features: int, hidden: int, *, bidirectional: bool = False, activation: str = "tanh") -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"model.activation: there is no {activation!r}; {nearest(activation, ACTIVATIONS)}")
        super().__init__()
        self.weights = nn.LSTM(in_features, hidden, batch_first=True, bidirectional=bidirectional)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        outputs = self._read(x, "")
        if not self.weights.bidirectional:
            return outputs
        return torch.cat([outputs, self._read(x.flip(1), "_reverse").flip(1)], dim=2)

    def _read(self, x: Tensor, suffix: str) -> Tensor:
        into, recurrent, bias, recurrent_bias = (
            getattr(self.weights, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        driven = x @ into.T + (bias + recurrent_bias)
        h = c = x.new_zeros(len(x), self.weights.hidden_size)
        outputs = []
        for step in driven.unbind(1):
            i, f, g, o = (step + h @ recurrent.T).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * self.activation(g)
            h = o.sigmoid() * self.activation(c)
            outputs.append(h)
        return torch.stack(outputs, dim=1)
