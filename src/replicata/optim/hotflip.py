"""HotFlip: discrete tokens that minimise a loss, guided by its gradient for their one-hots.

Ebrahimi, Rao, Lowd, Dou, ACL 2018; for universal triggers: Wallace, Feng, Kandpal, Gardner, Singh, EMNLP 2019.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def hotflip(
    loss: Callable[[Tensor], Tensor], phrase: Tensor, allowed: Tensor, *, steps: int, tried: int
) -> tuple[Tensor, float]:
    """Search a phrase of low loss.

    A step ranks for each place all tokens by the first-order change of the loss, computes the loss of the first few
    and keeps the best. The search ends when no place has a better one.

    Args:
        loss: One-hots :math:`(K, V)` of the phrase -> its loss, a scalar with a gradient.
        phrase: Tokens to begin with :math:`(K)`.
        allowed: Which of the :math:`V` tokens may be taken.
        steps: Most steps.
        tried: Tokens for which a step computes the loss, at each place.

    Returns:
        The phrase and its loss.
    """

    def one_hot(tokens: Tensor) -> Tensor:
        return F.one_hot(tokens, len(allowed)).float()

    def exact(tokens: Tensor) -> float:
        with torch.no_grad():
            return float(loss(one_hot(tokens)))

    best = exact(phrase)
    for _ in range(steps):
        before = best
        soft = one_hot(phrase).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(soft), soft)
        ranked = gradient.masked_fill(~allowed, float("inf")).argsort(dim=1)[:, :tried]
        for place in range(len(phrase)):
            for token in ranked[place]:
                other = phrase.clone()
                other[place] = token
                if (value := exact(other)) < best:
                    phrase, best = other, value
        if best == before:
            break
    return phrase, best
