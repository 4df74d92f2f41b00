"""RunningNorm: statistics of a stream."""

from __future__ import annotations

import torch
from gymnasium.wrappers.utils import RunningMeanStd
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.nn.running_norm import RunningNorm


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_batches_add_up_as_in_gymnasium(sizes: list[int], seed: int) -> None:
    stream = torch.randn(sum(sizes), 2, generator=torch.Generator().manual_seed(seed)) * 3 + 1
    norm, other = RunningNorm(2), RunningMeanStd(shape=(2,))
    for batch in stream.split(sizes):
        norm.update(batch)
        other.update(batch.double().numpy())
    torch.testing.assert_close(norm.mean, torch.from_numpy(other.mean))
    torch.testing.assert_close(norm.variance, torch.from_numpy(other.var))
    torch.testing.assert_close(norm.mean, stream.double().mean(0), atol=1e-3, rtol=1e-3)


def test_it_centres_scales_and_limits() -> None:
    norm = RunningNorm(1)
    norm.update(torch.tensor([[1.0], [3.0]] * 500))
    torch.testing.assert_close(
        norm(torch.tensor([[1.0], [2.0], [99.0]])).flatten(), torch.tensor([-1.0, 0.0, 10.0]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(norm.scale(torch.tensor([[2.0]])), torch.tensor([[2.0]]), atol=1e-3, rtol=0)
    again = RunningNorm(1)
    again.load_state_dict(norm.state_dict())
    assert torch.equal(again.mean, norm.mean)
