"""Linear layers whose activations have parameters of their own in every channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from replicata.nn.dice import Dice

ChannelActivation = Literal["prelu", "dice"]


def tower(in_features: int, widths: Sequence[int], out_features: int, activation: ChannelActivation) -> nn.Sequential:
    """Linear layers with PReLU or Dice between them.

    Args:
        in_features: Size of the input :math:`(B, F)`.
        widths: Hidden widths.
        out_features: Size of the output :math:`(B, C)`.
        activation: ``prelu`` (0.25 initially) or ``dice``; one slope a channel.

    Raises:
        ValueError: for a size that is not positive, or another activation.
    """
    if any(size < 1 for size in (in_features, *widths, out_features)):
        raise ValueError(f"widths: sizes must be positive, got {in_features}, {list(widths)}, {out_features}")
    if activation not in ("prelu", "dice"):
        raise ValueError(f"activation must be prelu or dice, got {activation!r}")
    layers: list[nn.Module] = []
    size = in_features
    for width in widths:
        layers += [nn.Linear(size, width), nn.PReLU(width) if activation == "prelu" else Dice(width)]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, out_features))
