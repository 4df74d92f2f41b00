"""The LSTM with other activations is torch's own with hyperbolic tangents."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from replicata.nn.lstm import LSTM


@pytest.mark.parametrize("bidirectional", [False, True])
def test_with_tanh_it_is_torchs_own(bidirectional: bool) -> None:
    torch.manual_seed(0)
    layer, x = LSTM(5, 4, bidirectional=bidirectional), torch.randn(3, 7, 5)
    torch.testing.assert_close(layer(x), layer.weights(x)[0])


def test_activations() -> None:
    layer, x = LSTM(2, 3, activation="elu"), torch.randn(1, 1, 2)
    gates = x[:, 0] @ layer.weights.weight_ih_l0.T + layer.weights.bias_ih_l0 + layer.weights.bias_hh_l0
    i, _, g, o = gates.chunk(4, 1)
    torch.testing.assert_close(layer(x)[:, 0], o.sigmoid() * F.elu(i.sigmoid() * F.elu(g)))
    with pytest.raises(ValueError, match=r"model\.activation"):
        LSTM(2, 3, activation="sine")
