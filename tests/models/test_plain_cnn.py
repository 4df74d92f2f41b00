"""The plain convolutional network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from replicata.models.plain_cnn import PlainCNN


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_two_stages_on_digits() -> None:
    net = PlainCNN([1, 8, 8], 10, [{"channels": 16, "pool": 2}, {"channels": 32}])
    assert parameters(net) == 160 + 4640 + 330
    assert net.stages(torch.rand(2, 1, 8, 8)).shape == (2, 32, 4, 4)
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert [name for name, _ in net.named_modules() if name.endswith("conv")] == ["stages.0.conv", "stages.1.conv"]


def test_valid_padding_and_flat_head() -> None:
    stages = [{"channels": 4, "kernel": 5, "padding": "valid", "pool": 2}, {"channels": 6, "padding": "valid"}]
    net = PlainCNN([3, 14, 16], 7, stages, norm="batch", head="flatten", bias=False, dropout=0.1)
    assert net.stages(torch.rand(2, 3, 14, 16)).shape == (2, 6, 3, 4)
    assert net(torch.rand(2, 3, 14, 16)).shape == (2, 7)
    assert net.stages[0].conv.bias is None


def test_average_head_is_the_mean_over_positions() -> None:
    net = PlainCNN([1, 6, 6], 2, [{"channels": 3}])
    x = torch.rand(4, 1, 6, 6)
    torch.testing.assert_close(net(x), net.head(net.stages(x).mean((2, 3))))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"stages": [{"channels": 4, "kernell": 3}]}, r"model.stages\[0\].kernell: .*kernel"),
        ({"stages": [{"kernel": 3}]}, r"model.stages\[0\].channels"),
        ({"stages": [{"channels": 4, "kernel": 2}]}, r"model.stages\[0\].kernel must be odd"),
        ({"stages": [{"channels": 4, "padding": 1}]}, r"model.stages\[0\].padding"),
        ({"stages": [{"channels": 4, "pool": 9}]}, r"model.stages\[0\]: nothing is left"),
        ({"norm": "layer"}, "model.norm"),
        ({"head": "max"}, "model.head"),
        ({"dropout": -0.1}, "model.dropout"),
        ({"activation": "elu"}, "model.activation"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    settings: dict[str, Any] = {"in_shape": [1, 8, 8], "num_classes": 10, "stages": [{"channels": 4}]} | wrong
    with pytest.raises(ValueError, match=named):
        PlainCNN(**settings)
