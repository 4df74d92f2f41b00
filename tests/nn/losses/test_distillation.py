"""Soft cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from replicata.nn.losses.distillation import soft_cross_entropy


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    return logits, torch.randn(6, 5, generator=rng, dtype=torch.float64).softmax(1)


@given(st.integers(0, 50), st.sampled_from([1.0, 2.0, 4.0]))
def test_it_is_its_formula_and_the_divergence_plus_the_targets_entropy(seed: int, temperature: float) -> None:
    logits, targets = drawn(seed)
    logs = (logits / temperature).log_softmax(1)
    loss = soft_cross_entropy(logits, targets, temperature)
    torch.testing.assert_close(loss, temperature**2 * -(targets * logs).sum(1).mean(), rtol=0, atol=1e-9)
    entropy = -(targets * targets.log()).sum(1).mean()
    divergence = F.kl_div(logs, targets, reduction="batchmean")
    torch.testing.assert_close(loss / temperature**2 - entropy, divergence, rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, temperature * (logs.exp() - targets) / 6, rtol=0, atol=1e-9)


def test_one_hot_targets_are_labels() -> None:
    logits, _ = drawn(0)
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    loss = soft_cross_entropy(logits, F.one_hot(labels, 5).double())
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-12)
