"""Initial values for whole networks."""

from __future__ import annotations

from torch import nn


def uniform(module: nn.Module, bound: float) -> None:
    """Draw every parameter, biases too, from [-bound, bound], as was usual for LSTMs (Sutskever et al., 2014)."""
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -bound, bound)
