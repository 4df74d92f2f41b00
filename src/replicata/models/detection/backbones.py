"""Backbones of detectors: networks that give the output of every stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class ConvBackbone(nn.Module):
    """Stages of two 3x3 convolutions, each followed by group normalisation and ReLU; for small images.

    The first stage halves the image twice, every later one once.

    Args:
        in_shape: Channels, height and width of an image; only the channels matter.
        widths: Channels of each stage.
        groups: Groups of the normalisation.

    Shapes:
        - input: :math:`(B, C, H, W)`; output: for stage :math:`i`, :math:`(B, w_i, H / s_i, W / s_i)`, rounded up, with
          :math:`s_i = 4, 8, 16, \\dots`
    """

    def __init__(self, in_shape: Sequence[int], widths: Sequence[int] = (16, 32, 64, 64), groups: int = 8) -> None:
        if any(width < 1 or width % groups for width in widths):
            raise ValueError(f"model.pyramid.backbone.widths must be multiples of groups={groups}, got {list(widths)}")
        super().__init__()
        self.channels = list(widths)
        self.strides = [4 * 2**stage for stage in range(len(widths))]
        self.stages = nn.ModuleList()
        channels = in_shape[0]
        for number, width in enumerate(widths):
            first = conv_norm(channels, width, groups, stride=2)
            self.stages.append(nn.Sequential(*first, *conv_norm(width, width, groups, stride=1 if number else 2)))
            channels = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class TorchvisionResNet(nn.Module):
    """A ResNet of torchvision as detectors use it: batch statistics are never renewed, the first stages do not learn.

    Args:
        name: ``resnet50``, ``resnext101_64x4d`` ...
        weights: Name of published weights (``IMAGENET1K_V1``), downloaded when needed; ``None``: random ones.
        frozen: Stages that do not learn; the stem with the first.

    Shapes:
        - input: :math:`(B, 3, H, W)`; output: four stages with strides 4, 8, 16, 32.
    """

    def __init__(self, name: str = "resnet50", weights: str | None = "IMAGENET1K_V1", frozen: int = 1) -> None:
        from torchvision.models import get_model

        if not 0 <= frozen <= 4:
            raise ValueError(f"model.pyramid.backbone.frozen must be from 0 to 4, got {frozen}")
        super().__init__()
        net: Any = get_model(name, weights=weights)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        self.strides = [4, 8, 16, 32]
        # A block ends on its widest normalisation.
        norms = [[part for part in stage.modules() if isinstance(part, nn.BatchNorm2d)] for stage in self.stages]
        self.channels = [max(norm.num_features for norm in stage) for stage in norms]
        if frozen:
            for part in (self.stem, *self.stages[:frozen]):
                part.requires_grad_(False)
        self.train()  # a trainer need not ask for it

    def train(self, mode: bool = True) -> TorchvisionResNet:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


def conv_norm(channels: int, width: int, groups: int, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution without bias, group normalisation, ReLU."""
    convolution = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
    return [convolution, nn.GroupNorm(groups, width), nn.ReLU()]
