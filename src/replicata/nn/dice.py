r"""Dice, a data-adaptive PReLU, from "Deep Interest Network" (KDD 2018). https://arxiv.org/abs/1706.06978"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dice(nn.Module):
    r"""Gate between two slopes, centred on the mean of the channel's inputs.

    .. math::
        f(s) = p(s)\, s + (1 - p(s))\, \alpha s, \quad
        p(s) = \sigma\!\left(\frac{s - \mathrm{E}[s]}{\sqrt{\mathrm{Var}[s] + \epsilon}}\right)

    Mean and variance are those of the batch in training and running estimates in evaluation, as in batch
    normalisation. PReLU is the same with a hard step at 0 for :math:`p`.

    Args:
        channels: Number :math:`C`; each has an :math:`\alpha` of its own, initially 0.
        eps: :math:`\epsilon`; the paper's 1e-8.
        momentum: Weight of a new batch in the running estimates.

    Shapes:
        - input and output: :math:`(B, C)`.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, eps: float = 1e-8, momentum: float = 0.1) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.eps, self.momentum = eps, momentum

    def forward(self, s: Tensor) -> Tensor:
        of_batch = self.training and len(s) > 1  # one row has no variance
        gate = F.batch_norm(s, self.mean, self.var, None, None, of_batch, self.momentum, self.eps).sigmoid()
        return s * (self.alpha + (1 - self.alpha) * gate)
