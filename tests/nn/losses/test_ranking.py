"""Ranking losses."""

from __future__ import annotations

import math

import pytest
import torch

from replicata.nn.losses.ranking import pairwise_logistic


def test_pairs_stay_within_their_group() -> None:
    scores, y = torch.tensor([2.0, 1.0, -1.0, 5.0]), torch.tensor([1, 0, 1, 0])
    group = torch.tensor([0, 0, 1, 1])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(6))) / 2
    assert float(pairwise_logistic(scores, y, group)) == pytest.approx(expected, rel=1e-5)
    every = [math.log1p(math.exp(b - a)) for a in (2.0, -1.0) for b in (1.0, 5.0)]
    assert float(pairwise_logistic(scores, y)) == pytest.approx(sum(every) / 4, rel=1e-5)


def test_no_pair_no_loss() -> None:
    scores = torch.randn(3, requires_grad=True)
    pairwise_logistic(scores, torch.ones(3)).backward()
    assert scores.grad is not None
    assert not scores.grad.any()
