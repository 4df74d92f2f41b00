"""Gradient reversal."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from replicata.nn.gradient_reversal import reverse_gradient


@given(st.floats(0, 10), st.integers(0, 100))
def test_identity_forward_and_scaled_negative_backward(scale: float, seed: int) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    y = reverse_gradient(x, scale)
    assert torch.equal(y, x)
    (plain,) = torch.autograd.grad((x**3).sum(), x)
    (reversed_,) = torch.autograd.grad((y**3).sum(), x)
    torch.testing.assert_close(reversed_, -scale * plain)
