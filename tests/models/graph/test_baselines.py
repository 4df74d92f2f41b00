"""The graph baselines equal torch_geometric's layers with copied weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import APPNP as PyGAPPNP
from torch_geometric.nn import GCNConv, SGConv

from replicata.models.graph.appnp import APPNP
from replicata.models.graph.gcn import GCN
from replicata.models.graph.mlp import MLP
from replicata.models.graph.sgc import SGC
from replicata.nn.propagation import normalised_adjacency

NODES, FEATURES, CLASSES = 25, 9, 4


@pytest.fixture
def graph() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    upper = (torch.rand(NODES, NODES, generator=generator) < 0.15).triu(1)
    upper[-1] = upper[:, -1] = False  # an isolated node
    edges = (upper | upper.T).nonzero().T
    x = (torch.rand(NODES, FEATURES, generator=generator) < 0.4).float()
    return x, edges, normalised_adjacency(edges, NODES)


def copy(layer: Any, weight: Tensor, bias: Tensor) -> Any:
    layer.lin.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer


def test_gcn_of_two_layers_equals_two_gcn_convs(graph: tuple[Tensor, Tensor, Tensor]) -> None:
    x, edges, adj = graph
    model = GCN(FEATURES, CLASSES, layers=2, hidden=6).eval()
    for layer in model.layers:
        layer.bias.data.normal_()
    first, second = model.layers
    one = copy(GCNConv(FEATURES, 6), first.weight, first.bias)
    two = copy(GCNConv(6, CLASSES), second.weight, second.bias)
    theirs = two(one(x, edges).relu(), edges)
    torch.testing.assert_close(model(x.to_sparse_csr(), adj), theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(x, adj), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hops", [0, 2, 5])
def test_sgc_equals_sg_conv(graph: tuple[Tensor, Tensor, Tensor], hops: int) -> None:
    x, edges, adj = graph
    model = SGC(FEATURES, CLASSES, hops=hops).eval()
    model.bias.data.normal_()
    layer = SGConv(FEATURES, CLASSES, K=hops)
    layer.lin.weight.data.copy_(model.linear.weight)
    layer.lin.bias.data.copy_(model.bias)
    torch.testing.assert_close(model(x.to_sparse_csr(), adj), layer(x, edges), atol=1e-5, rtol=1e-5)


def test_appnp_equals_the_library_layer_after_the_mlp(graph: tuple[Tensor, Tensor, Tensor]) -> None:
    x, edges, adj = graph
    model = APPNP(FEATURES, CLASSES, hops=10, teleport=0.1).eval()
    mlp = MLP(FEATURES, CLASSES).eval()
    mlp.load_state_dict(model.state_dict())
    theirs = PyGAPPNP(K=10, alpha=0.1)(mlp(x), edges)
    torch.testing.assert_close(model(x.to_sparse_csr(), adj), theirs, atol=1e-5, rtol=1e-5)


def test_gcn_starts_with_glorot_weights_and_zero_biases() -> None:
    model = GCN(300, 7, layers=16, hidden=64)
    assert len(model.layers) == model.depth == 16
    for layer in model.layers:
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.detach().any()


def test_gcn_is_plain() -> None:
    names = {type(module).__name__ for module in GCN(9, 4, layers=16).modules()}
    assert names == {"GCN", "ModuleList", "GraphConvolution"}
    model = GCN(9, 4, layers=3, hidden=8)
    for parameter in model.layers[1].parameters():  # with a residual, something would still pass
        parameter.data.zero_()
    x, adj = torch.rand(5, 9), normalised_adjacency(torch.empty(2, 0, dtype=torch.long), 5)
    assert not model.eval()(x, adj).detach().any()


def test_mlp_ignores_the_graph(graph: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, adj = graph
    model = MLP(FEATURES, CLASSES).eval()
    assert torch.equal(model(x, adj), model(x))


@pytest.mark.parametrize("model", [MLP, GCN, SGC, APPNP])
def test_dropout_acts_in_training_only(graph: tuple[Tensor, Tensor, Tensor], model: Any) -> None:
    x, _, adj = graph
    network = model(FEATURES, CLASSES, dropout=0.5)
    sparse = x.to_sparse_csr()
    assert not torch.equal(network(sparse, adj), network(sparse, adj))
    network.eval()
    assert torch.equal(network(sparse, adj), network(sparse, adj))


@pytest.mark.parametrize(
    ("model", "wrong", "key"),
    [
        (MLP, {"dropout": 1.0}, "model.dropout"),
        (GCN, {"layers": 0}, "model.layers"),
        (GCN, {"dropout": -0.1}, "model.dropout"),
        (SGC, {"hops": -1}, "model.hops"),
        (SGC, {"dropout": 2.0}, "model.dropout"),
        (APPNP, {"hops": -1}, "model.hops"),
        (APPNP, {"teleport": 1.5}, "model.teleport"),
    ],
)
def test_wrong_values_are_refused_by_name(model: Any, wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        model(FEATURES, CLASSES, **wrong)
