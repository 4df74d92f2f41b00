"""The multilayer perceptron."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from replicata.models.mlp import MLP


def test_layers_in_order() -> None:
    net = MLP(12, 3, widths=[8, 5], activation="tanh", norm="batch", dropout=0.5, bias=False)
    kinds = [type(layer) for layer in net.layers]
    block = [nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout]
    assert kinds == [*block, *block, nn.Linear]
    assert all(layer.bias is None for layer in net.layers if isinstance(layer, nn.Linear))
    assert net(torch.rand(4, 3, 2, 2)).shape == (4, 3)


def test_without_widths_it_is_linear() -> None:
    net = MLP(6, 2, widths=[])
    x = torch.rand(5, 6)
    torch.testing.assert_close(net(x), x @ net.layers[0].weight.T + net.layers[0].bias)
    assert isinstance(MLP(6, 2, norm="layer").layers[1], nn.LayerNorm)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"widths": [0]}, "model: sizes"),
        ({"activation": "rellu"}, "model.activation: there is no 'rellu'; did you mean .*relu"),
        ({"norm": "group"}, "model.norm"),
        ({"dropout": 1.0}, "model.dropout"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MLP(4, 2, **wrong)
