"""The smoothness metric: its range, its extremes, its blocks."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.metrics.smoothness import smoothness


def test_equals_its_definition_on_all_pairs() -> None:
    x = torch.randn(7, 3)
    unit = x / x.norm(dim=1, keepdim=True)
    pairs = (unit[:, None] - unit[None]).norm(dim=2) / 2
    torch.testing.assert_close(smoothness(x), pairs.sum(1) / 6)


@given(nodes=st.integers(2, 30), block=st.integers(1, 40), scale=st.floats(0.01, 100), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_range_and_blocks_and_scale(nodes: int, block: int, scale: float, seed: int) -> None:
    x = torch.randn(nodes, 4, generator=torch.Generator().manual_seed(seed))
    value = smoothness(x)
    assert bool(((value >= 0) & (value <= 1)).all())
    torch.testing.assert_close(smoothness(x, block), value)
    torch.testing.assert_close(smoothness(x * scale), value, atol=1e-5, rtol=1e-4)


def test_extremes() -> None:
    same = torch.ones(5, 3) * torch.arange(1, 6)[:, None]
    assert float(smoothness(same).max()) < 1e-6
    assert float(smoothness(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])).min()) == 1.0
    zero = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    torch.testing.assert_close(smoothness(zero), torch.tensor([0.5, 0.25, 0.25]))
