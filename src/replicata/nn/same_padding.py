r"""Convolution and pooling with TensorFlow's ``SAME`` padding.

An input of side :math:`n` gives :math:`\lceil n / s \rceil` at stride :math:`s`; where the padding that this needs is
odd, the larger half is at the end. PyTorch's own ``padding="same"`` has no strides.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def same_padding(side: int, size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, for one axis."""
    total = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


def _paddings(shape: torch.Size, size: int, stride: int) -> list[int]:
    """In the order of :func:`torch.nn.functional.pad`: the last axis first."""
    height, width = shape[-2:]
    return [*same_padding(width, size, stride), *same_padding(height, size, stride)]


class SameConv2d(nn.Conv2d):
    """:class:`torch.nn.Conv2d` with ``SAME`` padding, square kernels and equal strides."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1) -> None:
        # An odd kernel at stride 1 needs the same on both sides, which the convolution does itself.
        self.symmetric = stride == 1 and size % 2 == 1
        super().__init__(in_channels, out_channels, size, stride, padding=size // 2 if self.symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.symmetric:
            x = F.pad(x, _paddings(x.shape, self.kernel_size[0], self.stride[0]))
        return super().forward(x)


class SamePool2d(nn.Module):
    """Largest or mean value in square windows with ``SAME`` padding; what is padded takes no part in either."""

    def __init__(self, kind: str, size: int, stride: int) -> None:
        if kind not in ("max", "avg"):
            raise ValueError(f"the kind of pooling must be max or avg, got {kind!r}")
        super().__init__()
        self.kind, self.size, self.stride = kind, size, stride

    def forward(self, x: Tensor) -> Tensor:
        paddings = _paddings(x.shape, self.size, self.stride)
        if self.kind == "max":
            return F.max_pool2d(F.pad(x, paddings, value=-torch.inf), self.size, self.stride)
        inside = F.pad(torch.ones_like(x[:1, :1]), paddings)
        total = F.avg_pool2d(F.pad(x, paddings), self.size, self.stride, divisor_override=1)
        return total / F.avg_pool2d(inside, self.size, self.stride, divisor_override=1)
