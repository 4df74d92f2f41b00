"""A plain convolutional network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from replicata.errors import nearest
from replicata.nn.activation import activation as make_activation

STAGE: dict[str, Any] = {"channels": None, "kernel": 3, "padding": "same", "pool": 1}


class PlainCNN(nn.Module):
    """Convolutions one after the other, then one linear layer.

    It runs channels-last, which is faster on CPUs and on GPUs with tensor cores.

    Args:
        in_shape: Channels, height and width of an image.
        num_classes: Size of the output.
        stages: One mapping per stage ``stages.0``, ``stages.1`` ...: ``channels``; ``kernel`` (odd, default 3);
            ``padding`` (``same``, the default, or ``valid``); ``pool``, the side of a max pooling after the
            activation (default 1: none).
        activation: ``relu``, ``leaky_relu``, ``gelu``, ``silu`` or ``tanh``.
        norm: ``batch`` normalisation before each activation; ``None``: none.
        dropout: Probability before the linear layer.
        head: ``gap`` averages over all positions before the linear layer, ``flatten`` keeps them.
        bias: Whether the convolutions have biases.

    Shapes:
        - input: :math:`(B, C, H, W)`; output: :math:`(B, K)`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        stages: Sequence[Mapping[str, Any]],
        *,
        activation: str = "relu",
        norm: Literal["batch"] | None = None,
        dropout: float = 0.0,
        head: Literal["gap", "flatten"] = "gap",
        bias: bool = True,
    ) -> None:
        if norm not in (None, "batch"):
            raise ValueError(f"model.norm must be batch or null, got {norm!r}")
        if head not in ("gap", "flatten"):
            raise ValueError(f"model.head must be gap or flatten, got {head!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {dropout}")
        super().__init__()
        channels, height, width = in_shape
        self.stages = nn.Sequential()
        for number, given in enumerate(stages):
            stage = _stage(given, f"model.stages[{number}]")
            kernel, valid = stage["kernel"], stage["padding"] == "valid"
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["conv"] = nn.Conv2d(
                channels, stage["channels"], kernel, padding=0 if valid else kernel // 2, bias=bias
            )
            channels = stage["channels"]
            if norm is not None:
                layers["norm"] = nn.BatchNorm2d(channels)
            layers["activation"] = make_activation(activation)
            if stage["pool"] > 1:
                layers["pool"] = nn.MaxPool2d(stage["pool"])
            self.stages.append(nn.Sequential(layers))
            lost = kernel - 1 if valid else 0
            height, width = ((side - lost) // stage["pool"] for side in (height, width))
            if min(height, width) < 1:
                raise ValueError(f"model.stages[{number}]: nothing is left of an image of {list(in_shape)}")
        self.pool = nn.AdaptiveAvgPool2d(1) if head == "gap" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels if head == "gap" else channels * height * width, num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x.contiguous(memory_format=torch.channels_last))
        return self.head(self.dropout(self.pool(x).flatten(1)))


def _stage(given: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A stage with its defaults filled in."""
    if unknown := set(given) - set(STAGE):
        raise ValueError(f"{key}.{min(unknown)}: a stage has no such key; {nearest(min(unknown), STAGE)}")
    stage = STAGE | dict(given)
    for name in ("channels", "kernel", "pool"):
        if not isinstance(stage[name], int) or stage[name] < 1:
            raise ValueError(f"{key}.{name} must be a positive whole number, got {stage[name]!r}")
    if stage["kernel"] % 2 == 0:
        raise ValueError(f"{key}.kernel must be odd, got {stage['kernel']}")
    if stage["padding"] not in ("same", "valid"):
        raise ValueError(f"{key}.padding must be same or valid, got {stage['padding']!r}")
    return stage
