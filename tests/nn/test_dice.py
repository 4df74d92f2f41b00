"""Dice: its definition, its limits, and what it is not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from replicata.nn.dice import Dice


@pytest.mark.parametrize("training", [True, False])
def test_is_a_gate_of_batch_normalised_inputs(training: bool) -> None:
    dice, norm = Dice(5), nn.BatchNorm1d(5, affine=False, eps=1e-8)
    nn.init.uniform_(dice.alpha, -1, 1)
    for _ in range(3):  # the running estimates move alike
        s = 3 * torch.randn(32, 5) + 1
        dice(s), norm(s)
    dice.train(training), norm.train(training)
    p = norm(s).sigmoid()
    torch.testing.assert_close(dice(s), p * s + (1 - p) * dice.alpha * s, rtol=0, atol=1e-6)


def test_alpha_one_is_the_identity() -> None:
    dice, s = Dice(3), torch.randn(10, 3)
    nn.init.ones_(dice.alpha)
    torch.testing.assert_close(dice(s), s)


def test_alpha_zero_gates_by_the_standardised_input() -> None:
    s = torch.randn(100, 4)
    standard = (s - s.mean(0)) / s.std(0, correction=0)
    torch.testing.assert_close(Dice(4)(s), s * standard.sigmoid(), rtol=1e-5, atol=1e-6)
    assert not Dice(4)(torch.zeros(6, 4)).any()


@given(factor=st.floats(0.05, 50), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_is_scale_invariant_and_so_never_becomes_prelu(factor: float, seed: int) -> None:
    s = torch.randn(50, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    dice = Dice(2).double()
    s = s - s.mean(0)
    torch.testing.assert_close(dice(factor * s), factor * dice(s), rtol=1e-4, atol=1e-6)


def test_a_single_row_uses_the_running_estimates() -> None:
    dice, row = Dice(2), torch.tensor([[1.0, -2.0]])
    torch.testing.assert_close(dice(row), row * row.sigmoid())
    assert not dice.mean.any()
