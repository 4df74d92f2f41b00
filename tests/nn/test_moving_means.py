"""Moving averages by example."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.nn.moving_means import MovingMeans


def exponents(seed: int, size: int = 6, scale: float = 5.0) -> Tensor:
    x = scale * torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return x.fill_diagonal_(0)


@given(st.integers(0, 999), st.floats(0.01, 30))
@settings(max_examples=30, deadline=None)
def test_without_memory_weights_are_a_softmax_over_the_others(seed: int, scale: float) -> None:
    means, x = MovingMeans(10, gamma=1.0), exponents(seed, scale=scale)
    weights, log_mean = means(torch.arange(6), x)
    others = x.clone().fill_diagonal_(-torch.inf)
    torch.testing.assert_close(weights, others.softmax(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(log_mean, others.logsumexp(1) - math.log(5), rtol=1e-4, atol=1e-4)


@given(st.integers(0, 999), st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_the_average_is_the_recursion_without_any_shift(seed: int, gamma: float) -> None:
    """Three visits of every example, in double precision and with exponentials as they are."""
    means, expected = MovingMeans(6, gamma), torch.zeros(6).double()
    for visit in range(3):
        x = exponents(seed + visit)
        weights, log_mean = means(torch.arange(6), x)
        now = (x.double().exp().sum(1) - 1) / 5
        expected = now if visit == 0 else (1 - gamma) * expected + gamma * now
        torch.testing.assert_close(log_mean.double(), expected.log(), rtol=1e-4, atol=1e-4)
        off = ~torch.eye(6, dtype=torch.bool)
        plain = x.double().exp() / (5 * expected[:, None])
        torch.testing.assert_close(weights.double()[off], plain[off], rtol=1e-3, atol=1e-6)
        assert not weights.diagonal().any()


@given(st.integers(0, 999), st.floats(-20, 20))
@settings(max_examples=20, deadline=None)
def test_the_shift_does_not_matter(seed: int, shift: float) -> None:
    """A memory of the same size kept under another shift."""
    plain, moved = MovingMeans(6, 0.5), MovingMeans(6, 0.5)
    for means in (plain, moved):
        means(torch.arange(6), exponents(seed))
    moved.shift += shift
    moved.mean *= math.exp(-shift)
    for one, other in zip(*(means(torch.arange(6), exponents(seed + 1)) for means in (plain, moved)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_memory_is_by_number() -> None:
    means, x = MovingMeans(9, 0.5), exponents(0, 3)
    means(torch.tensor([4, 0, 7]), x)
    assert means.seen.nonzero().flatten().tolist() == [0, 4, 7]
    untouched = means.mean[[1, 2, 3, 5, 6, 8]]
    assert not untouched.any()
    alone = MovingMeans(9, 0.5)
    alone(torch.tensor([1, 2, 3]), x)
    _, other = alone(torch.tensor([7, 4, 0]), exponents(1, 3))  # none of them was seen
    _, known = means(torch.tensor([7, 4, 0]), exponents(1, 3))  # all were
    assert (other - known).abs().min() > 1e-4


def test_large_exponents_do_not_overflow() -> None:
    means = MovingMeans(4, 0.8)
    for scale in (300.0, 3.0, 500.0):
        weights, log_mean = means(torch.arange(4), exponents(2, 4, scale))
        assert torch.isfinite(weights).all()
        assert torch.isfinite(log_mean).all()


def test_a_checkpoint_holds_it_all() -> None:
    first = MovingMeans(6, 0.3)
    first(torch.arange(6), exponents(0))
    second = MovingMeans(6, 0.3)
    second.load_state_dict(first.state_dict())
    for one, other in zip(*(means(torch.arange(6), exponents(1)) for means in (first, second)), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.gamma"):
        MovingMeans(3, 0.0)
    with pytest.raises(ValueError, match="no negatives"):
        MovingMeans(3, 0.5)(torch.tensor([1]), torch.zeros(1, 1))
