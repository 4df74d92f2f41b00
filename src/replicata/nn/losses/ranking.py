r"""Ranking losses: the order of scores, not their size.

Burges et al., Learning to Rank using Gradient Descent, ICML 2005.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pairwise_logistic(scores: Tensor, y: Tensor, group: Tensor | None = None) -> Tensor:
    r"""Mean of :math:`\log(1 + e^{s_j - s_i})` over all pairs with :math:`y_i > y_j`, within groups if there are any.

    Args:
        scores, y, group: :math:`(B)`.

    Returns:
        A number; 0 where there is no such pair.
    """
    pairs = y.unsqueeze(1) > y.unsqueeze(0)
    if group is not None:
        pairs = pairs & (group.unsqueeze(1) == group.unsqueeze(0))
    losses = F.softplus(scores.unsqueeze(0) - scores.unsqueeze(1))
    return losses[pairs].sum() / pairs.sum().clamp_min(1)
