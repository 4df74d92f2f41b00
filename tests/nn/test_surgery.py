"""Replacing modules by rule."""

from __future__ import annotations

import torch
from torch import nn

from replicata.nn.surgery import replace


def doubled(name: str, module: nn.Module) -> nn.Module | None:
    return nn.Sequential(module, nn.Identity()) if isinstance(module, nn.Linear) else None


def test_layers_are_replaced_in_place_and_what_is_put_in_is_left_alone() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 2)
    model = nn.Sequential(nn.Sequential(first, nn.ReLU()), last)
    assert replace(model, doubled) is model
    assert model[0][0][0] is first
    assert model[1][0] is last
    assert model(torch.rand(3, 4)).shape == (3, 2)


def test_rule_sees_names_in_the_order_of_named_modules() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "b": nn.Linear(2, 2)})
    seen: list[str] = []
    replace(model, lambda name, module: seen.append(name))  # type: ignore[func-returns-value]
    assert seen == [name for name, _ in model.named_modules()]


def test_root_is_replaced_by_what_is_returned() -> None:
    layer = nn.Linear(3, 1)
    assert replace(layer, doubled)[0] is layer


def test_shared_module_stays_shared() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    replace(model, doubled)
    assert model[0] is model[2]
    assert model[0][0] is layer
