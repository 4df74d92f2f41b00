"""Surrogates of the policy gradient."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.nn.losses.policy_gradient import clipped_surrogate, score_function


def numbers(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(9, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_at_the_old_policy_both_have_one_gradient(seed: int) -> None:
    log_prob, advantage = numbers(seed)
    grads = []
    for loss in (lambda p: clipped_surrogate(p, log_prob, advantage, 0.2), lambda p: score_function(p, advantage)):
        free = log_prob.clone().requires_grad_()
        loss(free).backward()
        grads.append(free.grad)
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[1], -advantage / 9)


@given(ratio=st.floats(0.1, 3), advantage=st.floats(-3, 3))
@settings(max_examples=60, deadline=None)
def test_beyond_the_clip_a_gain_pulls_no_further_and_a_loss_still_does(ratio: float, advantage: float) -> None:
    free = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    loss = clipped_surrogate(free, torch.zeros(1), torch.tensor([advantage], dtype=torch.float64), 0.2)
    loss.backward()
    assert free.grad is not None
    assert float(loss.detach()) >= -advantage * float(free.detach().exp()) - 1e-9  # never better than unclipped
    far = (advantage > 0 and ratio > 1.2 + 1e-9) or (advantage < 0 and ratio < 0.8 - 1e-9)
    if far:
        assert not free.grad.any()
    elif abs(advantage) > 1e-6 and (ratio < 1.2 - 1e-9 or advantage < 0):
        assert free.grad.any()
