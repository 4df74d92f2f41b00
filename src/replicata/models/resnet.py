r"""Residual networks.

He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016. https://arxiv.org/abs/1512.03385
He, Zhang, Ren, Sun, Identity Mappings in Deep Residual Networks, ECCV 2016. https://arxiv.org/abs/1603.05027
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Block = Literal["basic", "bottleneck", "preact"]
Shortcut = Literal["projection", "pad", "none"]
Stem = Literal["cifar", "imagenet"]

EXPANSION = {"basic": 1, "bottleneck": 4, "preact": 1}


class ResNet(nn.Module):
    """Stages of residual blocks, an average over all positions, and one linear layer.

    With the same weights it computes what torchvision's ResNets do (``imagenet`` stem, projections), but its stages
    can have any number and width. A CIFAR ResNet-:math:`(6n + 2)` has three stages of :math:`n` basic blocks, widths
    16, 32, 64 and padded shortcuts. It runs channels-last.

    Args:
        in_shape: Channels, height and width of an image; only the channels matter.
        num_classes: Size of the output.
        blocks: Blocks of each stage.
        widths: Channels of each stage; a bottleneck puts out four times as many.
        block: ``basic`` (two 3x3 convolutions), ``bottleneck`` (1x1, 3x3, 1x1), or ``preact`` (basic, with
            normalisation and ReLU before each convolution and nothing behind the sum).
        stem: ``cifar``: a 3x3 convolution of stride 1; ``imagenet``: 7x7 of stride 2, then max pooling of stride 2.
        strides: Stride of each stage's first block; ``None``: 1, then 2.
        dilations: Dilation of each stage's 3x3 convolutions; ``None``: 1. A stage's first block keeps the dilation
            of the stage before, as torchvision's does.
        shortcut: How a block whose output has another shape adds its input: by a 1x1 ``projection``, or by leaving
            out positions and filling up with zero channels (``pad``, the paper's option A, without weights).
            ``none``: no block adds its input, a plain network.

    Shapes:
        - input: :math:`(B, C, H, W)`; output: :math:`(B, K)`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        *,
        blocks: Sequence[int] = (1, 1, 1),
        widths: Sequence[int] = (16, 32, 64),
        block: Block = "basic",
        stem: Stem = "cifar",
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        shortcut: Shortcut = "projection",
    ) -> None:
        for name, value, known in (
            ("block", block, tuple(EXPANSION)),
            ("stem", stem, ("cifar", "imagenet")),
            ("shortcut", shortcut, ("projection", "pad", "none")),
        ):
            if value not in known:
                raise ValueError(f"model.{name} must be one of {', '.join(known)}, got {value!r}")
        strides = [1] + [2] * (len(blocks) - 1) if strides is None else list(strides)
        dilations = [1] * len(blocks) if dilations is None else list(dilations)
        for name, values in (("blocks", blocks), ("widths", widths), ("strides", strides), ("dilations", dilations)):
            if len(values) != len(blocks) or not values or min(values) < 1:
                raise ValueError(f"model.{name} must be {len(blocks)} positive numbers, got {list(values)}")
        super().__init__()
        self.stem = _stem(stem, in_shape[0], widths[0], activated=block != "preact")
        make = {"basic": BasicBlock, "bottleneck": Bottleneck, "preact": PreActBlock}[block]
        channels, dilation = widths[0], 1
        self.stages = nn.Sequential()
        for count, width, stride, next_dilation in zip(blocks, widths, strides, dilations, strict=True):
            stage = nn.Sequential()
            for number in range(count):
                stage.append(make(channels, width, 1 if number else stride, dilation, shortcut))
                channels, dilation = width * EXPANSION[block], next_dilation
            self.stages.append(stage)
        # A pre-activation network ends on a bare sum.
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()) if block == "preact" else nn.Identity()
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of every stage, :math:`(B, C_s, H_s, W_s)`."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        found[-1] = self.last(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[-1].mean((2, 3)))


def _stem(kind: Stem, channels: int, width: int, activated: bool) -> nn.Sequential:
    kernel, stride = (3, 1) if kind == "cifar" else (7, 2)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)]
    if activated:
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    if kind == "imagenet":
        layers.append(nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*layers)


def _conv3(channels: int, width: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=dilation, dilation=dilation, bias=False)


class _Residual(nn.Module):
    """What blocks share: the shortcut. ``projection`` is the last of their layers."""

    def _shortcut(self, channels: int, out: int, stride: int, shortcut: Shortcut, norm: bool) -> None:
        self.kind, self.stride, self.missing = shortcut, stride, out - channels
        self.same = stride == 1 and out == channels
        self.projection: nn.Module | None = None
        if shortcut == "projection" and not self.same:
            convolution = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.projection = nn.Sequential(convolution, nn.BatchNorm2d(out)) if norm else convolution
        elif shortcut == "pad" and self.missing < 0:
            raise ValueError(f"model.shortcut=pad cannot go from {channels} channels to {out}: use projection")

    def add(self, y: Tensor, x: Tensor) -> Tensor:
        """``y`` plus the block's input ``x``."""
        if self.kind == "none":
            return y
        if self.projection is not None:
            return y + self.projection(x)
        if self.same:
            return y + x
        # Option A: the new channels come in equal parts before and behind the old ones.
        before = self.missing // 2
        sparse = x[:, :, :: self.stride, :: self.stride]
        return y + F.pad(sparse, (0, 0, 0, 0, before, self.missing - before))


class BasicBlock(_Residual):
    """Two 3x3 convolutions; ReLU after the sum."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3(channels, width, stride, dilation), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _conv3(width, width, dilation=dilation), nn.BatchNorm2d(width)
        self._shortcut(channels, width, stride, shortcut, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.add(self.norm2(self.conv2(y)), x))


class Bottleneck(_Residual):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide; the 3x3 has the stride, as torchvision's."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int, shortcut: Shortcut) -> None:
        super().__init__()
        out = width * EXPANSION["bottleneck"]
        self.conv1, self.norm1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _conv3(width, width, stride, dilation), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self._shortcut(channels, out, stride, shortcut, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.add(self.norm3(self.conv3(y)), x))


class PreActBlock(_Residual):
    """Normalisation and ReLU before each of two 3x3 convolutions; where the shape changes, the shortcut comes
    behind the first of them."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), _conv3(channels, width, stride, dilation)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), _conv3(width, width, dilation=dilation)
        self._shortcut(channels, width, stride, shortcut, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        y = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return self.add(y, x if self.same else active)
