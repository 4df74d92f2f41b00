"""Initial values for whole networks."""

from __future__ import annotations

import torch
from torch import nn

from replicata.nn.initialise import uniform


def test_uniform_fills_the_range_in_weights_and_biases() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(8, 64)
    uniform(lstm, 0.08)
    for name, parameter in lstm.named_parameters():
        assert float(parameter.detach().abs().max()) <= 0.08, name
        assert abs(float(parameter.detach().std()) - 0.08 / 3**0.5) < 0.005, name
