"""The hypernetwork core; what the MIP paper says of it is tested with that method."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replicata.nn.hypernetwork import Hypernetwork, flatten, unflatten

shapes = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=5)


@given(shapes)
def test_unflatten_and_flatten_are_inverse(given_shapes: list[list[int]]) -> None:
    spec = {f"t{number}": torch.Size(shape) for number, shape in enumerate(given_shapes)}
    flat = torch.arange(sum(shape.numel() for shape in spec.values()))
    tensors = unflatten(flat, spec)
    assert {name: tensor.shape for name, tensor in tensors.items()} == spec
    assert torch.equal(flatten(tensors), flat)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("widths", [[], [5, 7]])
def test_a_batch_of_conditions_gives_a_batch_of_tensors(widths: list[int], layer_norm: bool) -> None:
    spec = {"weight": torch.Size([3, 2]), "bias": torch.Size([3])}
    net = Hypernetwork(spec, 4, widths, encoding="z_1mz", residual=True, layer_norm=layer_norm)
    conditions = torch.rand(6, 4, dtype=torch.float64)
    batch = net(conditions)
    assert {name: tensor.shape for name, tensor in batch.items()} == {"weight": (6, 3, 2), "bias": (6, 3)}
    for row in range(6):
        torch.testing.assert_close(net(conditions[row])["weight"], batch["weight"][row])


def test_layer_norm_hides_the_size_of_the_condition() -> None:
    net = Hypernetwork({"weight": torch.Size([3, 2])}, 1, [8], layer_norm=True)
    small, large = (net(torch.tensor([size]))["weight"] for size in (0.5, 1.0))
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-4)
