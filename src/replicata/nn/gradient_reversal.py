r"""Gradient reversal: identity forward, :math:`-\lambda` times the gradient backward.

Ganin and Lempitsky, Unsupervised Domain Adaptation by Backpropagation, ICML 2015. https://arxiv.org/abs/1409.7495
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    r"""``x`` itself; what lies before it is trained to raise the loss that what lies behind is trained to lower.

    Args:
        x: Any tensor.
        scale: :math:`\lambda \ge 0`.
    """
    return _Reverse.apply(x, scale)
