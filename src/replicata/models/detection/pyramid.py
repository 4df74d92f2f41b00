r"""Feature pyramids.

Lin, Dollár, Girshick, He, Hariharan, Belongie, Feature Pyramid Networks for Object Detection, CVPR 2017.
https://arxiv.org/abs/1612.03144
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock


class Pyramid(nn.Module):
    """torchvision's feature pyramid with group normalisation, on the later stages of a backbone.

    Args:
        backbone: Gives the outputs of its stages, whose ``channels`` and ``strides`` it names.
        channels: Channels of every level.
        groups: Groups of the normalisation.
        first: The first stage that becomes a level, counted from 0.
        extra: Levels beyond the last stage, each half as large, by convolutions from that stage on.

    Attributes:
        strides: Of every level.

    Shapes:
        - input: :math:`(B, C, H, W)`; output: a list of levels :math:`(B, c, H / s, W / s)`, rounded up.
    """

    def __init__(
        self, backbone: nn.Module, channels: int = 256, groups: int = 32, *, first: int = 1, extra: int = 0
    ) -> None:
        source: Any = backbone
        if not 0 <= first < len(source.channels):
            raise ValueError(f"model.pyramid.first must be from 0 to {len(source.channels) - 1}, got {first}")
        if channels < 1 or channels % groups:
            raise ValueError(f"model.pyramid.channels must be a multiple of groups={groups}, got {channels}")
        super().__init__()
        self.backbone, self.channels, self.first = backbone, channels, first
        inputs = list(source.channels[first:])
        self.strides = [*source.strides[first:], *(source.strides[-1] * 2**step for step in range(1, extra + 1))]
        blocks = ExtraLevels(inputs[-1], channels, groups, extra) if extra else None
        self.fpn = FeaturePyramidNetwork(inputs, channels, blocks, norm_layer=partial(nn.GroupNorm, groups))

    def forward(self, x: Tensor) -> list[Tensor]:
        stages = self.backbone(x)[self.first :]
        return list(self.fpn({str(number): stage for number, stage in enumerate(stages)}).values())


class ExtraLevels(ExtraFPNBlock):
    """3x3 convolutions of stride 2 with group normalisation, one after the other, from the backbone's last stage."""

    def __init__(self, inputs: int, channels: int, groups: int, count: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for number in range(count):
            convolution = nn.Conv2d(channels if number else inputs, channels, 3, 2, 1, bias=False)
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            self.levels.append(nn.Sequential(convolution, nn.GroupNorm(groups, channels)))

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        last = x[-1]
        for number, level in enumerate(self.levels):
            last = level(last)
            results.append(last)
            names.append(f"extra{number}")
        return results, names
