r"""Distillation: a student's outputs against soft targets.

Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015. https://arxiv.org/abs/1503.02531
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    r""":math:`T^2 \cdot \mathrm{mean}_b\big(-\sum_c p_{bc} \log \mathrm{softmax}(z_b / T)_c\big)`.

    It is :math:`T^2 (\mathrm{KL}(p \,\|\, \mathrm{softmax}(z / T)) + H(p))`, and :math:`T^2` keeps the size of its
    gradient about independent of :math:`T`.

    Args:
        logits: Student's :math:`z`, :math:`(B, C)`.
        targets: Probabilities :math:`p`, :math:`(B, C)`, of teachers at the same temperature.
        temperature: :math:`T > 0`.
    """
    return temperature**2 * F.cross_entropy(logits / temperature, targets)
