"""Modules whose tensors come with each call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Spec = dict[str, torch.Size]


def layer_weights(module: nn.Module) -> list[str]:
    """Names of the weights and biases of all linear and convolutional layers, in order."""
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear | _ConvNd)]
    return [f"{name}.{own}".lstrip(".") for name, layer in layers for own, _ in layer.named_parameters(recurse=False)]


class Functional(nn.Module):
    """A module without parameters of its own: they are given to each call.

    The module is taken over: the named parameters are removed from it, so that no optimizer, checkpoint
    or count sees them. Its other parameters and its buffers stay.

    Args:
        module: Any module.
        names: Parameters to take out; ``None``: all.

    Attributes:
        spec: Shapes of the tensors that a call needs, by name, in the module's order.
    """

    def __init__(self, module: nn.Module, names: Iterable[str] | None = None) -> None:
        super().__init__()
        own = dict(module.named_parameters())
        wanted = set(own) if names is None else set(names)
        if unknown := wanted - set(own):
            raise ValueError(f"{type(module).__name__} has no parameter {min(unknown)!r}")
        self.spec: Spec = {name: parameter.shape for name, parameter in own.items() if name in wanted}
        self.module = module
        for name in self.spec:
            layer, _, last = name.rpartition(".")
            module.get_submodule(layer)._parameters[last] = None

    def forward(self, tensors: Mapping[str, Tensor], *args: Any) -> Any:
        """``module(*args)`` with the given tensors, which must be those of ``spec``."""
        if tensors.keys() != self.spec.keys():
            different = min(tensors.keys() ^ self.spec.keys())
            raise ValueError(f"the tensors for {type(self.module).__name__} do not fit its spec: {different!r}")
        return torch.func.functional_call(self.module, dict(tensors), args, tie_weights=False)
