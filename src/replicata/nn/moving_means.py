r"""Moving averages of means of exponentials, one for each training example.

Yuan et al., Provable Stochastic Optimization for Global Contrastive Learning (SogCLR), ICML 2022.
https://arxiv.org/abs/2202.12387
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST = 1e-14  # of a mean, before it divides


class MovingMeans(nn.Module):
    r"""What an example's negatives are like, remembered from batch to batch by the example's number.

    With exponents :math:`x_{ij}` of example :math:`i` against the others :math:`j` of its batch,

    .. math::
        b_i &\leftarrow \max(b_i,\ \max_j x_{ij}) \\
        g_i &= \mathrm{mean}_{j \ne i}\, e^{x_{ij} - b_i} \\
        s_i &\leftarrow (1 - \gamma)\, s_i\, e^{b_i^{\mathrm{old}} - b_i} + \gamma\, g_i,
            \quad \text{at the first visit } s_i = g_i

    :math:`b` only keeps the exponentials in range: :math:`s_i e^{b_i}` does not depend on it. Both are buffers, so that
    checkpoints hold them.

    Args:
        size: Examples :math:`N`.
        gamma: :math:`\gamma` in (0, 1]; 1: no memory.

    Raises:
        ValueError: if ``gamma`` is outside (0, 1].
    """

    shift: Tensor
    mean: Tensor
    seen: Tensor

    def __init__(self, size: int, gamma: float) -> None:
        if not 0 < gamma <= 1:
            raise ValueError(f"method.gamma must be in (0, 1], got {gamma}")
        super().__init__()
        self.gamma = gamma
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))

    @torch.no_grad()
    def forward(self, index: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
        r"""Take a batch in.

        Args:
            index: Numbers of the examples :math:`(B)`, all different.
            exponents: :math:`x` :math:`(B, B)`, example :math:`i` against :math:`j`; the diagonal is left out.

        Returns:
            Weights :math:`w_{ij} = e^{x_{ij} - b_i} / ((B - 1)\, s_i)`, 0 on the diagonal, and
            :math:`\log s_i + b_i`, :math:`(B)`.

        Raises:
            ValueError: if there is one example only.
        """
        others = len(index) - 1
        if not others:
            raise ValueError("a batch of one pair has no negatives: choose another data.batch_size")
        exponents = exponents.detach().to(self.mean.dtype)
        before = self.shift[index]
        shift = torch.maximum(before, exponents.amax(1))
        terms = (exponents - shift[:, None]).exp().fill_diagonal_(0)
        now = terms.sum(1) / others
        old = (1 - self.gamma) * self.mean[index] * (before - shift).exp() + self.gamma * now
        mean = torch.where(self.seen[index], old, now)
        self.shift[index], self.mean[index], self.seen[index] = shift, mean, True
        mean = mean.clamp_min(LEAST)
        return terms / (others * mean)[:, None], mean.log() + shift
