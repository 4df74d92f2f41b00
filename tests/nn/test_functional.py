"""Modules whose tensors come with each call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replicata.nn.functional import Functional, layer_weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def test_layer_weights_are_those_of_linear_and_convolutional_layers() -> None:
    assert layer_weights(net()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert layer_weights(nn.Linear(2, 3, bias=False)) == ["weight"]


def test_call_with_the_modules_own_tensors_is_the_module() -> None:
    torch.manual_seed(0)
    module = net()
    own = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    x = torch.rand(5, 2, 3, 3)
    expected = module(x)
    functional = Functional(module)
    assert list(functional.parameters()) == []
    assert functional.spec == {name: tensor.shape for name, tensor in own.items()}
    assert torch.equal(functional(own, x), expected)
    assert list(functional.parameters()) == []  # nothing of a call is left behind
    assert "Conv2d" in repr(functional)


def test_only_named_parameters_are_taken_out() -> None:
    functional = Functional(net(), ["0.weight"])
    assert [name for name, _ in functional.named_parameters()] == [
        "module.0.bias",
        "module.1.weight",
        "module.1.bias",
        "module.3.weight",
        "module.3.bias",
    ]
    assert "module.0.weight" not in functional.state_dict()


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no parameter '9\.weight'"):
        Functional(net(), ["9.weight"])
    with pytest.raises(ValueError, match=r"'bias'"):
        Functional(nn.Linear(2, 3))({"weight": torch.zeros(3, 2)}, torch.zeros(1, 2))
