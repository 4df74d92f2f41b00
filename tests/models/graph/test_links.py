"""Link scorers against torch_geometric and networkx."""

from __future__ import annotations

from typing import Any

import networkx
import pytest
import torch
from torch import Tensor
from torch_geometric.nn import GAE as PyGGAE
from torch_geometric.nn import GCNConv, SGConv

from replicata.models.graph.gae import GAE, DotDecoder, MLPDecoder
from replicata.models.graph.gcn import GCN
from replicata.models.graph.heuristics import AdamicAdar, CommonNeighbours, ResourceAllocation
from replicata.models.graph.pure_gcn import PureGCN
from replicata.nn.neighbours import Neighbours
from replicata.nn.propagation import normalised_adjacency

NODES, FEATURES = 60, 7


@pytest.fixture
def graph() -> networkx.Graph:
    return networkx.powerlaw_cluster_graph(NODES, 4, 0.7, seed=0)


@pytest.fixture
def edges(graph: networkx.Graph) -> Tensor:
    once = torch.tensor(list(graph.edges)).T
    return torch.cat([once, once.flip(0)], dim=1)


@pytest.fixture
def pairs() -> Tensor:
    drawn = torch.randint(NODES, (220, 2), generator=torch.Generator().manual_seed(1))
    return drawn[drawn[:, 0] != drawn[:, 1]][:200]


def count(graph: networkx.Graph, pairs: list[tuple[int, int]]) -> Any:
    return ((a, b, len(list(networkx.common_neighbors(graph, a, b)))) for a, b in pairs)


@pytest.mark.parametrize(
    ("model", "theirs"),
    [
        (CommonNeighbours, count),
        (AdamicAdar, networkx.adamic_adar_index),
        (ResourceAllocation, networkx.resource_allocation_index),
    ],
)
def test_heuristics_equal_networkx(
    graph: networkx.Graph, edges: Tensor, pairs: Tensor, model: Any, theirs: Any
) -> None:
    ours = model()(Neighbours(edges, NODES), pairs)
    expected = torch.tensor([value for _, _, value in theirs(graph, pairs.tolist())], dtype=torch.float64)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    assert float(ours.max()) > 0


def test_heuristics_are_entries_of_a_matrix_product(edges: Tensor, pairs: Tensor) -> None:
    dense = torch.zeros(NODES, NODES, dtype=torch.float64)
    dense[edges[0], edges[1]] = 1
    product = dense @ dense.sum(1).log().reciprocal().diag() @ dense
    ours = AdamicAdar()(Neighbours(edges, NODES), pairs)
    torch.testing.assert_close(ours, product[pairs[:, 0], pairs[:, 1]])


@torch.no_grad()
def test_gae_equals_torch_geometrics_with_copied_weights(edges: Tensor, pairs: Tensor) -> None:
    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = GCNConv(FEATURES, 8), GCNConv(8, 5)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.two(self.one(x, edges).relu(), edges)

    ours, theirs = GAE(GCN(FEATURES, 5, hidden=8), DotDecoder()).eval(), PyGGAE(Encoder())
    for layer, other in zip(ours.encoder.layers, (theirs.encoder.one, theirs.encoder.two), strict=True):  # type: ignore[arg-type]
        other.lin.weight.copy_(layer.weight)
        other.bias.copy_(layer.bias)
    x = torch.randn(NODES, FEATURES)
    h = ours.encode(x, normalised_adjacency(edges, NODES))
    torch.testing.assert_close(h, theirs.encode(x, edges), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(h, pairs), theirs.decoder(h, pairs.T, sigmoid=False), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("decoder", [DotDecoder(), MLPDecoder(5, 1, widths=(8,))])
def test_decoders_are_symmetric(pairs: Tensor, decoder: torch.nn.Module) -> None:
    model, h = GAE(torch.nn.Identity(), decoder), torch.randn(NODES, 5)
    assert model(h, pairs).shape == (len(pairs),)
    assert torch.equal(model(h, pairs), model(h, pairs.flip(1)))


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 3])
def test_pure_gcn_equals_sg_conv(edges: Tensor, layers: int) -> None:
    ours, theirs = PureGCN(FEATURES, 6, layers).eval(), SGConv(FEATURES, 6, K=layers, bias=False)
    theirs.lin.weight.copy_(ours.linear.weight)
    ours.linear.bias.zero_()
    x, adj = torch.randn(NODES, FEATURES), normalised_adjacency(edges, NODES)
    torch.testing.assert_close(ours(x, adj), theirs(x, edges), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x.to_sparse_csr(), adj), ours(x, adj), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pure_gcn_of_constant_features_is_the_row_sums(edges: Tensor) -> None:
    model = PureGCN(1, 1).eval()
    model.linear.weight.fill_(1.0)
    model.linear.bias.zero_()
    adj = normalised_adjacency(edges, NODES)
    torch.testing.assert_close(model(torch.ones(NODES, 1), adj)[:, 0], adj.to_dense().sum(1))


@torch.no_grad()
def test_jumping_sums_the_hops_with_its_scalars(edges: Tensor) -> None:
    model = PureGCN(FEATURES, 6, layers=2, jumping=True).eval()
    assert model.scale is not None
    x, adj = torch.randn(NODES, FEATURES), normalised_adjacency(edges, NODES)
    one = adj.to_dense() @ model.linear(x)
    expected = model.scale[0] * one + model.scale[1] * (adj.to_dense() @ one)
    torch.testing.assert_close(model(x, adj), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("place", ["input_dropout", "dropout", "tail_dropout"])
def test_dropout_acts_in_training_only(edges: Tensor, place: str) -> None:
    model, x = PureGCN(FEATURES, 6, **{place: 0.5}), torch.randn(NODES, FEATURES)  # type: ignore[arg-type]
    adj = normalised_adjacency(edges, NODES)
    assert not torch.equal(model(x, adj), model(x, adj))
    model.eval()
    assert torch.equal(model(x, adj), model(x, adj))


@pytest.mark.parametrize(("wrong", "key"), [({"layers": 0}, "model.layers"), ({"dropout": 1.0}, "model.dropout")])
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        PureGCN(FEATURES, **wrong)
