"""Focal loss of heat maps."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from replicata.nn.losses.heatmap import gaussian_focal


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_of_hard_targets_it_is_the_focal_loss(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(30, generator=rng)
    hard = torch.randint(2, (30,), generator=rng).float()
    torch.testing.assert_close(gaussian_focal(logits, hard), sigmoid_focal_loss(logits, hard, alpha=-1, gamma=2))


def test_near_the_point_a_cell_is_punished_less() -> None:
    logits, heat = torch.zeros(3), torch.tensor([0.0, 0.5, 0.99])
    far = gaussian_focal(logits, heat)
    torch.testing.assert_close(far, far[0] * (1 - heat) ** 4)
    assert gaussian_focal(torch.tensor([-200.0, 200.0]), torch.tensor([1.0, 0.0])).isfinite().all()
