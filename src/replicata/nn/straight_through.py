"""A hard decision with a soft gradient."""

from __future__ import annotations

from torch import Tensor


def straight_through(logits: Tensor) -> Tensor:
    """1 where the logit is positive, else 0; the gradient is that of the sigmoid (Bengio et al. 2013)."""
    soft = logits.sigmoid()
    hard = (logits > 0).to(soft.dtype)
    return hard + soft - soft.detach()
