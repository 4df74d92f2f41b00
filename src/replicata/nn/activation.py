"""Activations by name, for architectures that take theirs from a config."""

from __future__ import annotations

from torch import nn

from replicata.errors import nearest

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def activation(name: str) -> nn.Module:
    """A new activation layer.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"model.activation: there is no {name!r}; {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]()
