"""Layers in factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replicata.metrics.cost import MACs, count_parameters
from replicata.nn.factored import Factored, Layer, deploy, factorise, layers_of, tails

CONVOLUTION: dict[str, Any] = {"stride": 2, "padding": 1, "dilation": 2}


def cases() -> list[tuple[Layer, Tensor]]:
    torch.manual_seed(0)
    return [
        (nn.Linear(7, 4), torch.randn(5, 7)),
        (nn.Linear(3, 8, bias=False), torch.randn(2, 6, 3)),
        (nn.Conv2d(3, 5, 3, **CONVOLUTION), torch.randn(2, 3, 11, 9)),
        (nn.Conv2d(2, 40, 3, padding="same", bias=False), torch.randn(2, 2, 6, 6)),
    ]


@pytest.mark.parametrize(("layer", "x"), cases())
def test_svd_start_is_the_layers_own_function(layer: Layer, x: Tensor) -> None:
    factored = Factored.of(layer)
    assert factored.rank == min(layer.weight.flatten(1).shape)
    torch.testing.assert_close(factored(x), layer(x), rtol=0, atol=1e-5)
    assert torch.equal(factored.u.norm(dim=0).sort(descending=True).values, factored.u.norm(dim=0))


@pytest.mark.parametrize(("layer", "x"), cases())
def test_a_cut_is_the_best_approximation_right_after_the_start(layer: Layer, x: Tensor) -> None:
    factored = Factored.of(layer)
    weight = layer.weight.detach().flatten(1)
    p, s, qt = torch.linalg.svd(weight, full_matrices=False)
    for rank in range(1, factored.rank + 1):
        best = (p[:, :rank] * s[:rank]) @ qt[:rank]
        torch.testing.assert_close(factored.u[:, :rank] @ factored.v[:rank], best, rtol=0, atol=1e-5)
        factored.sampled = rank
        layer.weight.data = best.view_as(layer.weight)
        torch.testing.assert_close(factored(x), layer(x), rtol=0, atol=1e-5)


def test_output_of_arbitrary_factors() -> None:
    factored = Factored.of(nn.Linear(6, 4), init="default")
    x = torch.randn(3, 6)
    torch.testing.assert_close(factored(x), x @ (factored.u @ factored.v).T + factored.bias)


@pytest.mark.parametrize(("layer", "x"), cases())
def test_rank_zero_is_the_bias_broadcast(layer: Layer, x: Tensor) -> None:
    factored = Factored.of(layer)
    factored.rank = 0
    expected = torch.zeros_like(layer(x))
    if layer.bias is not None:
        expected += layer.bias.view(-1, *[1] * (x.ndim - 2 if isinstance(layer, nn.Conv2d) else 0))
    torch.testing.assert_close(factored(x), expected)


@pytest.mark.parametrize(("layer", "x"), cases())
def test_deployed_layer_keeps_the_function_and_is_multiplied_out_iff_that_is_smaller(layer: Layer, x: Tensor) -> None:
    factored = Factored.of(layer, init="default")
    m, n = layer.weight.flatten(1).shape
    bias = 0 if layer.bias is None else m
    for rank in range(factored.rank + 1):
        deployed = factored.deployed(rank)
        factored.rank = rank
        torch.testing.assert_close(deployed(x), factored(x), rtol=0, atol=1e-5)
        assert isinstance(deployed, Factored) == (rank * (m + n) <= m * n)
        assert count_parameters(deployed) == factored.size(rank) + bias == min(rank * (m + n), m * n) + bias
        factored.rank = min(m, n)


def test_cut_components_are_neither_counted_nor_computed() -> None:
    model = factorise(nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10)))
    model[0].rank = 2
    cut = deploy(model, [layer.rank for layer in layers_of(model)])
    assert count_parameters(cut) == 2 * 20 + 10 + 100 + 10
    with MACs(cut) as macs:
        cut(torch.rand(3, 10))
    assert macs.total == 3 * (2 * 20 + 100)
    assert count_parameters(model) == 2 * (200 + 10)  # the model itself keeps its tensors


def test_cut_components_get_no_gradient() -> None:
    factored = Factored.of(nn.Conv2d(3, 6, 3))
    factored.sampled = 2
    factored(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert factored.u.grad is not None
    assert factored.v.grad is not None
    assert factored.u.grad[:, :2].abs().sum() > 0
    assert not factored.u.grad[:, 2:].any()
    assert not factored.v.grad[2:].any()


def test_rank_is_saved_with_the_weights() -> None:
    layer, other = nn.Linear(5, 5), Factored.of(nn.Linear(5, 5))
    factored = Factored.of(layer)
    factored.rank = 3
    other.load_state_dict(factored.state_dict())
    assert other.rank == 3
    assert all(isinstance(value, Tensor) for value in factored.state_dict().values())


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 8), seed=st.integers(0, 100), left=st.integers(0, 8))
def test_importance_does_not_increase(rows: int, seed: int, left: int) -> None:
    torch.manual_seed(seed)
    factored = Factored.of(nn.Linear(rows, 8), init="default")
    factored.rank = min(left, factored.rank)
    u, v = factored.tails()
    assert len(u) == len(v) == factored.rank
    assert (factored.importance().diff() <= 0).all()
    for b in range(factored.rank):
        torch.testing.assert_close(u[b], factored.u[:, b : factored.rank].norm())
        torch.testing.assert_close(v[b], factored.v[b : factored.rank].norm())


def test_tails_have_a_finite_gradient_at_zero() -> None:
    x = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    tails(x.square()).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.tensor([1.0, 0.0, 0.0]))


def test_what_cannot_be_factored_is_refused() -> None:
    with pytest.raises(ValueError, match="without groups"):
        factorise(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)))
    with pytest.raises(ValueError, match="padded with zeros"):
        Factored.of(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
