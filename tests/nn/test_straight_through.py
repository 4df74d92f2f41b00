"""Hard decisions with a soft gradient."""

from __future__ import annotations

import torch

from replicata.nn.straight_through import straight_through


def test_forward_is_a_step_and_the_gradient_that_of_the_sigmoid() -> None:
    logits = torch.tensor([-2.0, -1e-3, 0.0, 1e-3, 3.0], requires_grad=True)
    decisions = straight_through(logits)
    torch.testing.assert_close(decisions.detach(), torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0]))
    decisions.sum().backward()
    soft = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, soft * (1 - soft))
