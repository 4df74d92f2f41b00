"""Normalised adjacency and propagation against dense linear algebra and torch_geometric."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.nn.propagation import normalised_adjacency, pagerank, propagate


def random_edges(nodes: int, seed: int, p: float = 0.3) -> Tensor:
    upper = (torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)) < p).triu(1)
    return (upper | upper.T).nonzero().T


@given(nodes=st.integers(1, 12), seed=st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_symmetric_normalisation_equals_its_formula(nodes: int, seed: int) -> None:
    edges = random_edges(nodes, seed)
    loops = torch.eye(nodes)
    loops[edges[0], edges[1]] = 1
    scale = loops.sum(1).rsqrt()
    adjacency = normalised_adjacency(edges, nodes).to_dense()
    torch.testing.assert_close(adjacency, scale[:, None] * loops * scale)
    assert torch.equal(adjacency, adjacency.T)  # exactly, so that it is its own transpose


def test_symmetric_normalisation_equals_torch_geometric() -> None:
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    edges = random_edges(15, seed=1)
    index, weight = gcn_norm(edges, num_nodes=15, add_self_loops=True)
    theirs = torch.zeros(15, 15)
    theirs[index[1], index[0]] = weight
    torch.testing.assert_close(normalised_adjacency(edges, 15).to_dense(), theirs)


def test_row_normalisation_is_a_random_walk() -> None:
    adjacency = normalised_adjacency(random_edges(15, seed=1), 15, norm="row").to_dense()
    torch.testing.assert_close(adjacency.sum(1), torch.ones(15))
    assert not torch.allclose(adjacency, adjacency.T)


def test_self_loops_and_repeated_edges_count_once() -> None:
    edges = torch.tensor([[0, 1, 0, 1, 2], [1, 0, 1, 0, 2]])
    adjacency = normalised_adjacency(edges, 4).to_dense()
    torch.testing.assert_close(adjacency[:2, :2], torch.full((2, 2), 0.5))
    torch.testing.assert_close(adjacency.diagonal(), torch.tensor([0.5, 0.5, 1.0, 1.0]))


@pytest.mark.parametrize("norm", ["sym", "row"])
def test_hops_and_their_gradient_equal_dense_matrix_powers(norm: str) -> None:
    adjacency = normalised_adjacency(random_edges(20, seed=4), 20, norm)  # type: ignore[arg-type]
    dense = adjacency.to_dense()
    h = torch.randn(20, 3, requires_grad=True)
    stack = propagate(adjacency, h, hops=6)
    powers = torch.stack([torch.linalg.matrix_power(dense, hop) @ h for hop in range(7)])
    torch.testing.assert_close(stack, powers, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(7, 20, 3)
    (ours,) = torch.autograd.grad(stack, h, upstream)
    (theirs,) = torch.autograd.grad(powers, h, upstream)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradient_through_the_last_hop_alone() -> None:
    adjacency = normalised_adjacency(random_edges(10, seed=4), 10)
    h = torch.randn(10, 2, requires_grad=True)
    propagate(adjacency, h, hops=3)[-1].sum().backward()
    expected = torch.linalg.matrix_power(adjacency.to_dense(), 3).sum(0)
    assert h.grad is not None
    torch.testing.assert_close(h.grad, expected[:, None].expand(10, 2))


def test_pagerank_converges_to_its_closed_form() -> None:
    adjacency = normalised_adjacency(random_edges(10, seed=2), 10)
    h = torch.randn(10, 2)
    closed = torch.linalg.solve(torch.eye(10) - 0.8 * adjacency.to_dense(), 0.2 * h)
    torch.testing.assert_close(pagerank(adjacency, h, hops=100, share=0.2), closed, atol=1e-5, rtol=1e-5)
