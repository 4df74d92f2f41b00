"""Gradient-guided search of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from replicata.optim.hotflip import hotflip


def test_a_linear_loss_is_solved_in_one_step() -> None:
    weights = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))

    def loss(soft: Tensor) -> Tensor:
        return (soft * weights).sum()

    allowed = torch.arange(12) >= 2
    phrase, value = hotflip(loss, torch.tensor([2, 3, 4]), allowed, steps=1, tried=1)
    best = weights.masked_fill(~allowed, float("inf")).min(1)
    assert phrase.tolist() == best.indices.tolist()
    assert abs(value - float(best.values.sum())) < 1e-5


def test_it_never_gets_worse_and_stops_where_nothing_is_better() -> None:
    calls = []

    def loss(soft: Tensor) -> Tensor:
        calls.append(1)
        return (soft[:, 1] - 1).square().sum() + soft[:, 0].sum()

    phrase, value = hotflip(loss, torch.tensor([1, 1]), torch.ones(4, dtype=torch.bool), steps=50, tried=2)
    assert (phrase.tolist(), value) == ([1, 1], 0.0)
    assert len(calls) < 10
