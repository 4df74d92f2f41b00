"""Neighbour sets against Python's own sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.nn.neighbours import Members, Neighbours, pool


def random_graph(nodes: int, seed: int, share: float = 0.3) -> Tensor:
    upper = (torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)) < share).triu(1)
    return (upper | upper.T).nonzero().T


def as_sets(members: Members, pairs: int) -> list[set[int]]:
    sets: list[set[int]] = [set() for _ in range(pairs)]
    for row, node in zip(members.row.tolist(), members.node.tolist(), strict=True):
        assert node not in sets[row]
        sets[row].add(node)
    return sets


def adjacency_sets(edges: Tensor, nodes: int) -> list[set[int]]:
    sets: list[set[int]] = [set() for _ in range(nodes)]
    for a, b in edges.T.tolist():
        sets[a].add(b)
    return sets


@given(nodes=st.integers(2, 14), seed=st.integers(0, 500), share=st.sampled_from([0.0, 0.1, 0.4, 1.0]))
@settings(max_examples=40, deadline=None)
def test_all_sets_are_those_of_the_graph(nodes: int, seed: int, share: float) -> None:
    edges = random_graph(nodes, seed, share)
    neighbours, known = Neighbours(edges, nodes), adjacency_sets(edges, nodes)
    assert neighbours.degree.tolist() == [len(own) for own in known]
    assert as_sets(neighbours.of(torch.arange(nodes)), nodes) == known
    pairs = torch.cartesian_prod(torch.arange(nodes), torch.arange(nodes))
    assert neighbours.contain(*pairs.T).tolist() == [b in known[a] for a, b in pairs.tolist()]
    overlap = neighbours.overlap(pairs)
    expected = [(known[a] & known[b], known[a] - known[b], known[b] - known[a]) for a, b in pairs.tolist()]
    found = zip(*(as_sets(part, len(pairs)) for part in overlap), strict=True)
    assert list(found) == expected
    assert as_sets(neighbours.common(pairs), len(pairs)) == [own[0] for own in expected]
    dense = torch.zeros(nodes, nodes)
    dense[edges[0], edges[1]] = 1
    assert neighbours.walks().contain(*pairs.T).tolist() == (dense @ dense > 0).flatten().tolist()


def test_repeated_edges_count_once() -> None:
    edges = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]])
    assert Neighbours(edges, 3).degree.tolist() == [1, 1, 0]


def test_common_neighbours_do_not_depend_on_the_order_of_a_pair() -> None:
    neighbours = Neighbours(random_graph(30, 1), 30)
    pairs = torch.randint(30, (50, 2), generator=torch.Generator().manual_seed(0))
    for a, b in zip(neighbours.common(pairs), neighbours.common(pairs.flip(1)), strict=True):
        assert torch.equal(a, b)


def test_pool_is_a_product_with_the_incidence_matrix_and_has_its_gradient() -> None:
    edges = random_graph(12, 3)
    members = Neighbours(edges, 12).of(torch.arange(12))
    x = torch.randn(12, 4, requires_grad=True)
    weight = torch.rand(len(members.row))
    matrix = torch.zeros(12, 12).index_put((members.row, members.node), weight)
    ours, theirs = pool(x, members, 12, weight), matrix @ x
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), x) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_thinning_leaves_out_the_share_of_the_entries_it_says() -> None:
    neighbours = Neighbours(random_graph(200, 0), 200)
    torch.manual_seed(0)
    thin = neighbours.thinned(0.25)
    assert int(thin.degree.sum()) / int(neighbours.degree.sum()) == pytest.approx(0.75, abs=0.02)
    kept = thin.of(torch.arange(200))
    assert bool(neighbours.contain(kept.row, kept.node).all())
