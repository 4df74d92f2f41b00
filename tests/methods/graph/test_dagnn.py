"""Fidelity checks of DAGNN: what only the right method satisfies."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from replicata.data.graph.planetoid import Planetoid
from replicata.data.graph.sbm import SBM
from replicata.methods.graph.dagnn import DAGNN
from replicata.metrics.smoothness import smoothness
from replicata.models.graph.mlp import MLP
from replicata.nn.propagation import normalised_adjacency, propagate
from replicata.run.compose import compose
from replicata.tasks.nodes import Nodes

FEATURES, CLASSES = 9, 4


def dagnn(hops: int = 5, features: int = FEATURES, classes: int = CLASSES, **changed: Any) -> DAGNN:
    settings = {"num_classes": classes, "hops": hops, "model": MLP(features, classes, dropout=0.8)}
    return DAGNN(**(settings | changed)).eval()


def graph_of(edges: Tensor, nodes: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(nodes, FEATURES, generator=generator)
    y = torch.randint(CLASSES, (nodes,), generator=generator)
    return {"x": x.to_sparse_csr(), "edges": edges, "y": y, "train": torch.arange(nodes)}


def random_graph(nodes: int, seed: int) -> dict[str, Tensor]:
    """A random graph whose last node is isolated."""
    upper = (torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)) < 0.3).triu(1)
    upper[:, -1] = False
    return graph_of((upper | upper.T).nonzero().T, nodes, seed)


def set_projection(method: DAGNN, weight: float | Tensor, bias: float) -> None:
    assert method.projection is not None
    method.projection.weight.data[:] = weight
    method.projection.bias.data.fill_(bias)


def karate() -> Tensor:
    import networkx

    edges = torch.tensor(list(networkx.karate_club_graph().edges)).T
    return torch.cat([edges, edges.flip(0)], dim=1)


@torch.no_grad()
def embedding(method: DAGNN, graph: dict[str, Tensor]) -> Tensor:
    return method.model(graph["x"], graph["adj"])


# Parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [0, 10, 100])
def test_parameter_count_is_that_of_the_paper_and_independent_of_the_hops(hops: int) -> None:
    method = dagnn(hops, features=1433, classes=7)
    assert sum(p.numel() for p in method.parameters()) == (1433 * 64 + 64) + (64 * 7 + 7) + (7 + 1) == 92_239


# Eqs. (3) and (4) ---------------------------------------------------------------------------


@torch.no_grad()
@given(seed=st.integers(0, 200), nodes=st.integers(2, 15))
@settings(max_examples=20, deadline=None)
def test_without_hops_the_output_is_the_gated_embedding(seed: int, nodes: int) -> None:
    torch.manual_seed(seed)
    method = dagnn(hops=0)
    graph = method.graph(random_graph(nodes, seed))
    z = embedding(method, graph)
    assert method.projection is not None
    torch.testing.assert_close(method(graph), method.projection(z).sigmoid() * z)


@torch.no_grad()
@given(seed=st.integers(0, 200), hops=st.integers(0, 8))
@settings(max_examples=20, deadline=None)
def test_scores_of_one_sum_all_hops_and_scores_of_a_half_halve_that(seed: int, hops: int) -> None:
    torch.manual_seed(seed)
    method = dagnn(hops)
    graph = method.graph(random_graph(12, seed))
    z, dense = embedding(method, graph), graph["adj"].to_dense()
    total = sum(torch.linalg.matrix_power(dense, hop) @ z for hop in range(hops + 1))
    set_projection(method, 0.0, 100.0)
    torch.testing.assert_close(method(graph), total, atol=1e-5, rtol=1e-5)
    set_projection(method, 0.0, 0.0)
    torch.testing.assert_close(method(graph), total / 2, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_output_equals_the_equations_written_out() -> None:
    method = dagnn(hops=4)
    graph = method.graph(random_graph(11, seed=3))
    assert method.projection is not None
    h, out = embedding(method, graph), 0.0
    for _ in range(5):
        score = torch.sigmoid(h @ method.projection.weight[0] + method.projection.bias)
        out = out + score[:, None] * h
        h = graph["adj"].to_dense() @ h
    torch.testing.assert_close(method(graph), out, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scores_are_sigmoids_per_node_and_hop_not_a_softmax() -> None:
    method = dagnn(hops=6)
    set_projection(method, torch.randn(CLASSES), 0.3)
    graph = method.graph(random_graph(10, seed=1))
    scores = method.scores(propagate(graph["adj"], embedding(method, graph), 6)).T
    assert scores.shape == (10, 7)
    assert bool(((scores > 0) & (scores < 1)).all())
    assert not torch.allclose(scores.sum(1), torch.ones(10), atol=0.1)
    assert float(scores.std(0).min()) > 0  # they differ between nodes


@torch.no_grad()
def test_a_graph_of_one_node_keeps_its_shape() -> None:
    method = dagnn(hops=3)
    graph = method.graph(graph_of(torch.empty(2, 0, dtype=torch.long), nodes=1))
    assert method(graph).shape == (1, CLASSES)
    assert method.scores(propagate(graph["adj"], embedding(method, graph), 3)).shape == (4, 1)


# Eq. (2) ------------------------------------------------------------------------------------


@torch.no_grad()
def test_views_equal_dense_matrix_powers() -> None:
    graph = random_graph(20, seed=5)
    adj = normalised_adjacency(graph["edges"], 20)
    z = torch.randn(20, CLASSES)
    for hop, view in enumerate(propagate(adj, z, 12)):
        power = torch.linalg.matrix_power(adj.to_dense().double(), hop) @ z.double()
        torch.testing.assert_close(view, power.float(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_views_of_an_isolated_node_are_all_its_embedding() -> None:
    method = dagnn(hops=7)
    graph = method.graph(random_graph(12, seed=2))
    z = embedding(method, graph)
    assert float(graph["adj"].to_dense()[-1, -1]) == 1
    assert torch.equal(propagate(graph["adj"], z, 7)[:, -1], z[-1].expand(8, CLASSES))


@torch.no_grad()
def test_limit_of_symmetric_propagation_is_the_square_root_of_degrees() -> None:
    edges = karate()
    adj = normalised_adjacency(edges, 34)
    degree = torch.bincount(edges[0], minlength=34) + 1.0
    z = torch.randn(34, 3)
    rows = propagate(adj, z, 200)[-1] / degree.sqrt()[:, None]
    assert float((rows - rows.mean(0)).abs().max()) < 1e-3
    limit = degree.sqrt() @ z / degree.sum()  # one row of D^(1/2) 1 1^T D^(1/2) / (1^T D 1), without its own factor
    torch.testing.assert_close(rows.mean(0), limit, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_limit_of_row_normalised_propagation_is_fully_smooth() -> None:
    edges = karate()
    adj = normalised_adjacency(edges, 34, norm="row")
    degree = torch.bincount(edges[0], minlength=34) + 1.0
    z = torch.randn(34, 3)
    views = propagate(adj, z, 200)
    values = [float(smoothness(views[hop]).mean()) for hop in (0, 10, 200)]
    assert values[0] > 0.3
    assert values[0] > values[1] > values[2]
    assert values[2] < 1e-3
    torch.testing.assert_close(views[-1], (degree / degree.sum() @ z).expand(34, 3), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@given(seed=st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_permuting_the_nodes_permutes_the_output(seed: int) -> None:
    torch.manual_seed(seed)
    method = dagnn(hops=5)
    graph = random_graph(13, seed)
    order = torch.randperm(13)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(13))
    moved = graph | {"x": graph["x"].to_dense()[order].to_sparse_csr(), "edges": place[graph["edges"]]}
    torch.testing.assert_close(method(method.graph(moved)), method(method.graph(graph))[order], atol=1e-5, rtol=1e-5)


# The decoupled arm and the loss --------------------------------------------------------------


@torch.no_grad()
def test_without_adaptive_sum_the_output_is_the_last_hop() -> None:
    method = dagnn(hops=4, adaptive=False)
    graph = method.graph(random_graph(12, seed=8))
    expected = torch.linalg.matrix_power(graph["adj"].to_dense(), 4) @ embedding(method, graph)
    torch.testing.assert_close(method(graph), expected, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in method.parameters()) == sum(p.numel() for p in method.model.parameters())


def test_the_loss_is_cross_entropy_and_its_gradient_reaches_everything() -> None:
    method = dagnn(hops=5)
    graph = method.graph(random_graph(20, seed=1))
    loss = method.objective(graph, method(graph), "train")
    log_softmax = method(graph).log_softmax(1)
    torch.testing.assert_close(loss, -log_softmax[torch.arange(20), graph["y"]].mean())
    loss.backward()
    reached = {
        name for name, parameter in method.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    layers = ("model.input", "model.output", "projection")
    assert reached == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def test_gradient_equals_that_of_dense_algebra() -> None:
    method = dagnn(hops=3)
    graph = method.graph(random_graph(10, seed=4))
    dense, x = graph["adj"].to_dense(), graph["x"].to_dense()
    method.objective(graph, method(graph), "train").backward()
    ours = {name: parameter.grad.clone() for name, parameter in method.named_parameters()}  # type: ignore[union-attr]
    method.zero_grad()
    z = method.model(x)
    views = torch.stack([torch.linalg.matrix_power(dense, hop) @ z for hop in range(4)], dim=1)  # (N, K + 1, C)
    assert method.projection is not None
    logits = (method.projection(views).sigmoid() * views).sum(1)
    torch.nn.functional.cross_entropy(logits, graph["y"]).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_dropout_falls_on_the_input_too() -> None:
    method = dagnn().train()
    assert method.model.input.dropout == method.model.output.dropout == 0.8  # type: ignore[union-attr]
    graph = method.graph(random_graph(12, seed=0))
    assert not torch.equal(method.model.input(graph["x"]), method.model.input(graph["x"]))  # type: ignore[operator,union-attr]


def test_negative_hops_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"method\.hops must be >= 0, got -1"):
        dagnn(hops=-1)


# Runs ---------------------------------------------------------------------------------------


def sbm() -> SBM:
    return SBM(num_nodes=160, in_features=32, num_classes=4, per_class=10, n_val=40, root=".", cache=".")


def trained(fit: Any, **changed: Any) -> tuple[DAGNN, Any]:
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=0.01, weight_decay=5e-3)
    method = dagnn(features=32, optimizer=adam, **changed)
    return method, fit(method, sbm(), max_epochs=6)


def test_training_is_a_function_of_the_seed(fit: Any) -> None:
    runs = [trained(fit)[1].callback_metrics for _ in range(2)]
    assert {name: float(value) for name, value in runs[0].items()} == {
        name: float(value) for name, value in runs[1].items()
    }


def test_the_test_records_scores_and_smoothness_per_hop(fit: Any) -> None:
    method, trainer = trained(fit, hops=6, smoothness=True)
    trainer.test(method, datamodule=trainer.datamodule, verbose=False)
    graph = method.graph(trainer.datamodule.graph)
    with torch.no_grad():
        views = propagate(graph["adj"], method.eval().model(graph["x"], graph["adj"]), 6)
        scores = method.scores(views)
    rows = method.tables["hops"]
    assert [row["hop"] for row in rows] == list(range(7))
    assert [row["hop"] for row in rows if "smv" in row] == [0, 1, 2, 4, 6]
    for hop, row in enumerate(rows):
        assert row["median"] == pytest.approx(float(scores[hop].quantile(0.5)), abs=1e-5)
        assert row["q05"] <= row["q25"] <= row["median"] <= row["q75"] <= row["q95"]
    assert rows[6]["smv"] == pytest.approx(float(smoothness(views[6]).mean()), abs=1e-5)
    assert [(row["network"], row["depth"]) for row in method.tables["depth"]] == [("DAGNN", 6)]


def test_the_decoupled_arm_records_no_scores(fit: Any) -> None:
    method, trainer = trained(fit, hops=2, adaptive=False, smoothness=True)
    trainer.test(method, datamodule=trainer.datamodule, verbose=False)
    assert all("median" not in row for row in method.tables["hops"])
    assert [(row["network"], row["depth"]) for row in method.tables["depth"]] == [("decoupled", 2)]


@pytest.mark.data
def test_learns_cora(fit: Any, data_root: Path, tmp_path: Path) -> None:
    facts = {"num_nodes": 2708, "in_features": 1433, "num_classes": 7}
    data = Planetoid(name="Cora", root=str(data_root), cache=str(tmp_path), download=False, **facts)
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=0.01, weight_decay=5e-3)
    method = dagnn(hops=10, features=1433, classes=7, optimizer=adam)
    trainer = fit(method, data, max_epochs=40)
    assert float(trainer.callback_metrics["val/acc"]) > 0.7


# Configs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms() -> dict[str, Any]:
    """Every arm's composed config."""
    name = "experiment=graph/dagnn"
    return {arm: compose([name, *overrides]) for arm, overrides in compose([name]).study.arms.items()}


def test_every_arm_selects_and_stops_by_validation_loss(arms: dict[str, Any]) -> None:
    for config in arms.values():
        assert config.test == "best"
        assert config.callbacks.checkpoint.monitor == config.callbacks.early_stopping.monitor == "val/loss"
        assert config.callbacks.checkpoint.mode == "min"
        assert config.method.smoothness


def test_claims_name_arms_that_exist(arms: dict[str, Any]) -> None:
    claims = arms["dagnn"].study.claims
    assert len({claim.id for claim in claims}) == 7
    assert {claim.test[side] for claim in claims for side in ("arm", "than")} <= set(arms)


def test_arms_are_what_their_names_say(arms: dict[str, Any]) -> None:
    assert (arms["dagnn"].model.dropout, arms["dagnn"].method.hops) == (0.8, 10)
    assert (arms["dagnn"].optimizer.lr, arms["dagnn"].optimizer.weight_decay) == (0.01, 0.005)
    assert (arms["dagnn_citeseer"].model.dropout, arms["dagnn_citeseer"].optimizer.weight_decay) == (0.5, 0.02)
    for hops in (2, 16, 50, 100):
        assert arms[f"dagnn_k{hops}"].method.hops == hops
    for hops in (2, 10, 100):
        decoupled = arms[f"decoupled_k{hops}"]
        assert (decoupled.method.hops, decoupled.method.adaptive) == (hops, False)
    assert arms["gcn_l16"].model.layers == 16
    assert arms["gcn_l16"].method["_target_"] == f"{Nodes.__module__}.{Nodes.__qualname__}"
    assert arms["gcn_l2_citeseer"].data.name == arms["dagnn_citeseer"].data.name == "CiteSeer"


def test_baselines_have_the_values_that_tuning_chose(arms: dict[str, Any]) -> None:
    """Equal trials for every baseline; the arm's literals are the trial of the lowest validation loss."""
    tuning = json.loads((Path(__file__).parents[3] / "results" / "graph" / "dagnn_tuning.json").read_text())
    tuned = set()
    for entry in tuning["entries"]:
        for arm, chosen in entry["chosen"].items():
            tuned.add(arm)
            trials = [trial for trial in entry["trials"] if trial["arm"] == arm]
            assert len(trials) == 18
            assert min(trials, key=lambda trial: trial["value"])["values"] == chosen
            assert {key: OmegaConf.select(arms[arm], key) for key in chosen} == chosen
    assert tuned == {arm for arm in arms if not arm.startswith("dagnn")}


def test_paper_scale_derives_from_the_laptop_study(arms: dict[str, Any]) -> None:
    config = compose(["experiment=graph/dagnn_paper"])
    assert (config.trainer.max_epochs, config.study.seeds) == (1000, 100)
    assert set(config.study.arms) == set(arms)
