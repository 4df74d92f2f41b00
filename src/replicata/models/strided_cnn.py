"""A convolutional network whose every layer halves the image: small and fast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StridedCNN(nn.Module):
    """3x3 convolutions of stride 2, each with batch normalisation and ReLU, then one linear layer on all positions.

    It runs channels-last, which is faster on CPUs and on GPUs with tensor cores.

    Args:
        in_shape: Channels, height and width of an image.
        out_features: Size of the output.
        channels: Channels of each layer.

    Shapes:
        - input: :math:`(B, C, H, W)`; output: :math:`(B, K)`.
    """

    def __init__(self, in_shape: Sequence[int], out_features: int, channels: Sequence[int] = (32, 64, 96, 128)) -> None:
        if not channels or min(*channels, out_features) < 1:
            raise ValueError(f"model: channels and out_features must be positive, got {list(channels)}, {out_features}")
        super().__init__()
        width, *sides = in_shape
        self.layers = nn.Sequential()
        for size in channels:
            self.layers.extend(
                [nn.Conv2d(width, size, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(size), nn.ReLU()]
            )
            width, sides = size, [(side + 1) // 2 for side in sides]
        self.head = nn.Linear(width * sides[0] * sides[1], out_features)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.contiguous(memory_format=torch.channels_last)).flatten(1))
