"""Fidelity checks of NCN and NCNC: what only the right method satisfies."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from replicata.data.graph.powerlaw_cluster import PowerlawCluster
from replicata.data.loaders import Batch
from replicata.methods.graph.ncn import NCN, CommonNeighbourCounts, Encoded
from replicata.models.graph.heuristics import LinkHeuristics
from replicata.models.graph.pure_gcn import PureGCN
from replicata.nn.neighbours import Neighbours, pool
from replicata.nn.propagation import normalised_adjacency
from replicata.run.compose import compose
from replicata.run.execute import build
from replicata.run.identity import resolved
from replicata.streams import Streams
from replicata.study.parse import parse

NODES, HIDDEN = 40, 8
ARMS: list[dict[str, Any]] = [
    {},
    {"completion": 1},
    {"completion": 2},
    {"pooling": "none"},
    {"pooling": "count"},
    {"extra": "difference"},
    {"extra": "walks"},
    {"completion": 1, "extra": "difference"},
]


def ncn(seed: int = 0, **changed: Any) -> NCN:
    torch.manual_seed(seed)
    model = PureGCN(2, HIDDEN)
    return NCN(**({"hidden": HIDDEN, "k": 10, "model": model} | changed)).eval()


def random_graph(seed: int = 0, nodes: int = NODES) -> networkx.Graph:
    return networkx.powerlaw_cluster_graph(nodes, 3, 0.6, seed=seed)


def batch_of(graph: networkx.Graph) -> Batch:
    once = torch.tensor(list(graph.edges)).T
    edges = torch.cat([once, once.flip(0)], dim=1)
    degree = torch.bincount(edges[0], minlength=len(graph)).float()
    return {"x": torch.stack([torch.ones(len(graph)), degree.log1p()], dim=1), "graph": edges}


def unlinked(graph: networkx.Graph, size: int = 60) -> Tensor:
    return torch.tensor(sorted(networkx.non_edges(graph))[:: max(1, NODES // 3)][:size])


def plain(method: NCN) -> NCN:
    """XLIN gives zero, so that what is pooled are the node vectors themselves."""
    method.transform = nn.Linear(HIDDEN, HIDDEN, bias=False)  # type: ignore[assignment]
    nn.init.zeros_(method.transform.weight)
    return method


def pooled(method: NCN, encoded: Encoded, pairs: Tensor) -> Tensor:
    """What CNLIN gets."""
    seen = []
    handle = method.shared.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    method.logits(encoded, pairs, method.completion)
    handle.remove()
    return seen[-1]


def neighbours_of(graph: networkx.Graph) -> Neighbours:
    return Neighbours(batch_of(graph)["graph"], len(graph))


# Eq. (2): the heuristics are special cases --------------------------------------------------


@torch.no_grad()
@given(seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_pooling_of_fixed_vectors_is_cn_aa_and_ra(seed: int) -> None:
    graph = random_graph(seed)
    pairs, degree = unlinked(graph), torch.tensor([float(d) for _, d in sorted(graph.degree)])
    h = torch.zeros(NODES, HIDDEN)
    h[:, 0], h[:, 1], h[:, 2] = 1.0, degree.log().reciprocal(), degree.reciprocal()
    sums = pooled(plain(ncn()), Encoded(h, neighbours_of(graph)), pairs)
    asked = pairs.tolist()
    counts = [len(list(networkx.common_neighbors(graph, a, b))) for a, b in asked]
    adamic = [value for _, _, value in networkx.adamic_adar_index(graph, asked)]
    allocation = [value for _, _, value in networkx.resource_allocation_index(graph, asked)]
    torch.testing.assert_close(sums[:, :3], torch.tensor([counts, adamic, allocation]).T, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_counting_arm_gets_the_number_of_common_neighbours() -> None:
    graph = random_graph()
    method, pairs = ncn(pooling="count"), unlinked(graph)
    counts = pooled(method, method.encode(batch_of(graph)), pairs)
    expected = [[float(len(list(networkx.common_neighbors(graph, a, b))))] for a, b in pairs.tolist()]
    torch.testing.assert_close(counts, torch.tensor(expected))


# Eq. (3) ------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("arm", ARMS)
def test_scores_are_symmetric(arm: dict[str, Any]) -> None:
    graph = random_graph(3)
    method, pairs = ncn(**arm), unlinked(graph)
    encoded = method.encode(batch_of(graph))
    torch.testing.assert_close(method.score(encoded, pairs), method.score(encoded, pairs.flip(1)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scores_equal_the_equations_in_dense_algebra() -> None:
    graph = random_graph(5)
    method, pairs, batch = ncn(), unlinked(graph), batch_of(graph)
    method.beta.fill_(0.7)
    a = torch.zeros(NODES, NODES)
    a[batch["graph"][0], batch["graph"][1]] = 1
    loops = a + torch.eye(NODES)
    scale = loops.sum(1).rsqrt()
    h = scale[:, None] * loops * scale @ method.model.linear(batch["x"])  # type: ignore[operator,union-attr]
    i, j = pairs.T
    s = (a[i] * a[j]) @ (h + method.transform(h))
    expected = method.out(method.pair(h[i] * h[j]) + 0.7 * method.shared(s))[:, 0]
    torch.testing.assert_close(method.score(method.encode(batch), pairs), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_common_neighbours_the_term_is_the_same_for_all_pairs() -> None:
    graph = networkx.path_graph(NODES)
    far = torch.tensor([[0, 9], [3, 20], [5, 30]])
    method = ncn()
    sums = pooled(method, method.encode(batch_of(graph)), far)
    assert not sums.any()
    terms = method.shared(sums)
    assert torch.equal(terms, terms[:1].expand_as(terms))


def test_gae_is_ncn_without_the_term_and_starts_with_the_same_weights() -> None:
    own, gae = dict(ncn().named_parameters()), dict(ncn(pooling="none").named_parameters())
    assert set(own) - set(gae) == {name for name in own if name.startswith(("shared.", "transform.", "beta"))}
    assert all(torch.equal(own[name], value) for name, value in gae.items())
    graph = random_graph()
    method = ncn()
    with torch.no_grad():
        method.beta.zero_()
        pairs, batch = unlinked(graph), batch_of(graph)
        other = ncn(pooling="none")
        assert torch.equal(method.score(method.encode(batch), pairs), other.score(other.encode(batch), pairs))


def test_layers_are_those_of_the_authors_code() -> None:
    names = {
        part: [type(layer).__name__ for layer in getattr(ncn(), part)]
        for part in ("pair", "shared", "transform", "out")
    }
    two = ["Linear", "Dropout", "ReLU", "Linear", "LayerNorm", "Dropout", "ReLU"]
    one = ["Linear", "LayerNorm", "Dropout", "ReLU"]
    assert names == {"pair": one, "shared": two, "transform": two, "out": [*one, "Linear"]}
    assert [type(layer).__name__ for layer in ncn(blocks=2).out] == [*one, *one, "Linear"]
    assert float(ncn().beta.detach()) == 1


# Eq. (4): completion ------------------------------------------------------------------------


@torch.no_grad()
@given(seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_completion_by_zero_is_ncn_and_by_one_pools_over_the_union(seed: int) -> None:
    graph = random_graph(seed)
    method, pairs = ncn(completion=1), unlinked(graph)
    encoded = method.encode(batch_of(graph))
    method.missing = lambda e, nodes, others, depth: torch.zeros(len(nodes))  # type: ignore[method-assign]
    torch.testing.assert_close(method.score(encoded, pairs), method.logits(encoded, pairs, 0), atol=1e-5, rtol=1e-5)
    method.missing = lambda e, nodes, others, depth: torch.ones(len(nodes))  # type: ignore[method-assign]
    x = encoded.h + method.transform(encoded.h)
    union = [sorted(set(graph[a]) | set(graph[b])) for a, b in pairs.tolist()]
    expected = torch.stack([x[nodes].sum(0) for nodes in union])
    torch.testing.assert_close(pooled(method, encoded, pairs), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_completion_asks_for_the_link_to_the_node_that_lacks_it() -> None:
    graph = random_graph(2)
    method, pairs = ncn(completion=1), unlinked(graph, 10)
    encoded = method.encode(batch_of(graph))
    x = encoded.h + method.transform(encoded.h)

    def probability(a: int, b: int) -> Tensor:
        return method.calibrate(method.logits(encoded, torch.tensor([[a, b]]), 0))[0]

    expected = []
    for i, j in pairs.tolist():
        terms = [x[u] for u in set(graph[i]) & set(graph[j])]
        terms += [probability(j, u) * x[u] for u in set(graph[i]) - set(graph[j])]
        terms += [probability(i, u) * x[u] for u in set(graph[j]) - set(graph[i])]
        expected.append(torch.stack(terms).sum(0))
    torch.testing.assert_close(pooled(method, encoded, pairs), torch.stack(expected), atol=1e-4, rtol=1e-4)


@given(low=st.floats(-20, 20), step=st.floats(0.01, 5), prior=st.floats(0.05, 1), alpha=st.floats(0.1, 1.2))
@settings(max_examples=50, deadline=None)
def test_calibration_is_increasing_and_below_alpha(low: float, step: float, prior: float, alpha: float) -> None:
    method = ncn(prior=prior, alpha=alpha, scale=0.5, offset=1.0)
    one, two = method.calibrate(torch.tensor([low, low + step], dtype=torch.float64)).tolist()
    assert 0 < one < two < alpha * (1 + 1e-9)


def test_calibration_without_prior_is_the_sigmoid() -> None:
    logits = torch.linspace(-5, 5, 11)
    method = ncn(prior=1.0, alpha=1.0, scale=2.5, offset=0.4)
    torch.testing.assert_close(method.calibrate(logits), torch.sigmoid(2.5 * (logits - 0.4)))


def test_no_gradient_flows_through_the_probabilities() -> None:
    graph = random_graph(4)
    method, pairs = ncn(completion=1), unlinked(graph)
    batch = batch_of(graph)
    encoded = method.encode(batch)
    inner = []
    original = method.missing

    def kept(*arguments: Any) -> Tensor:
        inner.append(original(*arguments))
        return inner[-1]

    method.missing = kept  # type: ignore[method-assign]
    method.score(encoded, pairs).sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in method.named_parameters() if parameter.grad is not None}
    assert not inner[0].requires_grad
    assert float(inner[0].std()) > 0
    method.zero_grad()
    constant = inner[0].detach().clone()
    method.missing = lambda *arguments: constant  # type: ignore[method-assign]
    method.score(method.encode(batch), pairs).sum().backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(ours[name], parameter.grad)


# The other terms ----------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("extra", ["difference", "walks"])
def test_extra_terms_pool_over_their_sets(extra: Any) -> None:
    graph = random_graph(6)
    method, pairs = ncn(extra=extra), unlinked(graph)
    a = torch.tensor(networkx.to_numpy_array(graph, nodelist=range(NODES))).float()
    i, j = pairs.T
    reach = (a @ a > 0).float()
    weights = {"difference": (a[i] - a[j]).abs(), "walks": a[i] * reach[j] + reach[i] * a[j]}[extra]
    x = torch.randn(NODES, HIDDEN)
    sums = sum(pool(x, side, len(pairs)) for side in method.outside(neighbours_of(graph), pairs))
    torch.testing.assert_close(sums, weights @ x, atol=1e-4, rtol=1e-4)


# Target link removal ------------------------------------------------------------------------


def data(**changed: Any) -> PowerlawCluster:
    return PowerlawCluster(
        **({"num_nodes": 100, "in_features": 2, "batch_size": 60, "root": ".", "cache": "."} | changed)
    )


def trained(fit: Any, epochs: int = 1, **changed: Any) -> tuple[NCN, Any]:
    method = ncn(**({"optimizer": partial(torch.optim.Adam, lr=0.005)} | changed)).train()
    return method, fit(method, data(), max_epochs=epochs)


@pytest.mark.parametrize("remove", [True, False])
def test_a_batchs_links_are_gone_from_encoder_and_sums(fit: Any, monkeypatch: pytest.MonkeyPatch, remove: bool) -> None:
    steps = []
    original = NCN.encode

    def watched(self: NCN, graph: Batch) -> Encoded:
        encoded = original(self, graph)
        if self.training:
            i, j = graph["pos"].T
            for a, b in ((i, j), (j, i)):
                assert bool(encoded.neighbours.contain(a, b).any()) is not remove
                members = encoded.neighbours.of(a)
                assert bool((members.node == b[members.row]).any()) is not remove  # whether N(i) holds j
            gone = {frozenset(pair) for pair in graph["pos"].tolist()} if remove else set()
            whole = self.trainer.datamodule.graph.T.tolist()  # type: ignore[attr-defined]
            left = torch.tensor([edge for edge in whole if frozenset(edge) not in gone]).T
            expected = self.model(graph["x"], normalised_adjacency(left, 100))
            torch.testing.assert_close(encoded.h, expected)
            steps.append(len(left))
        return encoded

    monkeypatch.setattr(NCN, "encode", watched)
    _, trainer = trained(fit, remove_targets=remove)
    assert len(steps) == trainer.num_training_batches > 1


def test_edge_dropout_thins_the_sums_in_training_only() -> None:
    graph = random_graph(7)
    method, pairs = ncn(edge_dropout=0.5, dropout=0.0), unlinked(graph)
    encoded = method.encode(batch_of(graph))
    assert torch.equal(method.score(encoded, pairs), method.score(encoded, pairs))
    method.train()
    assert not torch.equal(method.score(encoded, pairs), method.score(encoded, pairs))


# Runs ---------------------------------------------------------------------------------------


def test_training_is_a_function_of_the_seed(fit: Any) -> None:
    runs = [trained(fit, completion=1)[1].callback_metrics for _ in range(2)]
    assert {name: float(value) for name, value in runs[0].items()} == {
        name: float(value) for name, value in runs[1].items()
    }


def test_it_learns_a_graph_of_triangles_that_its_encoder_alone_does_not(fit: Any) -> None:
    hits = []
    for pooling in ("vectors", "none"):
        method, trainer = trained(fit, epochs=6, pooling=pooling)
        trainer.test(method, datamodule=trainer.datamodule, verbose=False)
        hits.append(float(trainer.callback_metrics["test/auc"]))
        (row,) = method.tables["observed"]
        assert row["network"] == {"vectors": "NCN", "none": "GAE"}[pooling]
        assert (row["observed"], row["hits"]) == (1.0, float(trainer.callback_metrics["test/hits@10"]))
    assert hits[0] > hits[1] - 0.02
    assert hits[0] > 0.6


def test_counts_are_shares_and_the_whole_graph_has_more(fit: Any) -> None:
    method = CommonNeighbourCounts(k=10, model=LinkHeuristics())
    fit(method, data())
    rows = method.tables["common"]
    shares: dict[str, float] = {}
    for row in rows:
        shares[row["pairs"]] = shares.get(row["pairs"], 0.0) + row["share"]
    assert len(shares) == 6
    assert all(value == pytest.approx(1) for value in shares.values())
    none = {row["pairs"]: row["share"] for row in rows if row["count"] == 0}
    assert none["test links, training graph"] > none["test links, whole graph"]
    assert [row["network"] for row in method.tables["observed"]] == ["CN"]
    assert set(method.panel) == {"cn", "aa", "ra"}


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"pooling": "mean"}, "method.pooling"),
        ({"extra": "more"}, "method.extra"),
        ({"completion": -1}, "completion"),
        ({"blocks": 0}, "blocks"),
        ({"pooling": "none", "completion": 1}, "method.pooling=none"),
        ({"pooling": "count", "extra": "walks"}, "method.pooling=count"),
        ({"dropout": 1.0}, "method.dropout"),
        ({"edge_dropout": -0.1}, "method.edge_dropout"),
        ({"prior": 0.0}, "prior"),
        ({"alpha": 0.0}, "alpha"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        ncn(**wrong)


# Configs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms() -> dict[str, Any]:
    """Every arm's composed config."""
    name = "experiment=graph/ncn"
    study = parse(compose([name]).study, "graph/ncn")
    return {arm.name: compose([name, *arm.overrides]) for arm in study.arms.values()}


def test_arms_of_one_graph_differ_in_the_method_alone(arms: dict[str, Any]) -> None:
    for graph in ("NS", "Yeast", "Cora"):
        own = [config for config in arms.values() if config.data.name == graph and "hidden" in config.method]
        assert len(own) >= 2
        for config in own:
            data = {key: value for key, value in OmegaConf.to_container(config.data).items() if key != "observed"}  # type: ignore[union-attr]
            first = {key: value for key, value in OmegaConf.to_container(own[0].data).items() if key != "observed"}  # type: ignore[union-attr]
            assert data == first
            for key in ("model", "optimizer", "trainer", "test"):
                assert config[key] == own[0][key]


def test_arms_are_what_their_names_say(arms: dict[str, Any]) -> None:
    def said(arm: str) -> tuple[Any, ...]:
        method = arms[arm].method
        return method.pooling, method.completion, method.extra, method.remove_targets

    assert said("ncn") == said("ncn_yeast") == said("ncn_cora") == ("vectors", 0, None, True)
    assert said("ncnc") == said("ncnc_yeast") == said("ncnc_obs50") == ("vectors", 1, None, True)
    assert said("gae") == said("gae_yeast") == said("gae_cora") == ("none", 0, None, True)
    assert said("gae_cn") == said("gae_cn_yeast") == ("count", 0, None, True)
    assert said("ncn_notlr") == ("vectors", 0, None, False)
    assert said("ncn_diff") == ("vectors", 0, "difference", True)
    assert said("ncn2") == ("vectors", 0, "walks", True)
    for arm in ("heuristics", "ncn", "ncnc"):
        assert [arms[f"{arm}{end}"].data.observed for end in ("_obs50", "_obs75", "")] == [0.5, 0.75, 1.0]
    for arm in ("ncn", "gae", "heuristics"):
        assert [arms[f"{arm}{end}"].data.name for end in ("", "_yeast", "_cora")] == ["NS", "Yeast", "Cora"]
    assert {config.method.k for config in arms.values()} == {100}


def test_claims_name_arms_that_exist(arms: dict[str, Any]) -> None:
    claims = arms["ncn"].study.claims
    assert {claim.test[side].partition("/")[0] for claim in claims for side in ("arm", "than")} <= set(arms)
    assert len([claim for claim in claims if claim.get("role", "claim") == "claim"]) == 7


def test_paper_scale_takes_two_steps(tmp_path: Path, fit: Any) -> None:
    """The authors' model on a graph as large as Cora with as many features."""
    config = compose(["experiment=graph/ncn_paper", "method.completion=1", f"paths.cache={tmp_path}"])
    pairs, method = build(resolved(config), Streams(0), {})
    assert (method.model.linear.in_features, method.hidden if hasattr(method, "hidden") else 256) == (1433, 256)
    nodes = 2708
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(nodes, 1433, generator=generator) < 0.013).float().to_sparse_csr()
    edges = torch.randint(nodes, (2, 5300), generator=generator)
    pairs.load = lambda: {"edges": edges, "x": x}
    before = [parameter.detach().clone() for parameter in method.parameters()]
    trainer = fit(method, pairs, max_steps=2, limit_val_batches=0)
    assert trainer.global_step == 2
    assert all(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.0043, 0.0024]
