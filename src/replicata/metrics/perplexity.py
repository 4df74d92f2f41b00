"""Perplexity from losses that are computed anyway.

torchmetrics has one of logits, in a package that takes a second to import and more where transformers is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Perplexity(Metric):
    """The exponential of the mean cross-entropy over all tokens."""

    full_state_update = False
    higher_is_better = False
    total: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("total", "tokens"):
            self.add_state(state, torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")

    def update(self, loss: Tensor, tokens: int) -> None:
        """Add the mean cross-entropy in nats of so many tokens."""
        self.total += loss.detach() * tokens
        self.tokens += tokens

    def compute(self) -> Tensor:
        return (self.total / self.tokens).exp()
