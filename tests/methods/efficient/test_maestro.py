"""Fidelity checks of Maestro: what only the right method satisfies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from replicata.data.synthetic.linear_map import LinearMap
from replicata.data.vision.images import Digits
from replicata.methods.efficient.maestro import (
    Compressible,
    Dense,
    LinearMaestro,
    Maestro,
    Pufferfish,
    Warmed,
    pufferfish_size,
)
from replicata.metrics.cost import count_parameters
from replicata.models.lenet import LeNet
from replicata.models.mlp import MLP
from replicata.nn.factored import Factored, deploy, layers_of
from replicata.streams import Streams

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
OFF: dict[str, Any] = {"sample": False, "group_lasso": 0.0, "threshold": 0.0}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MLP(64, 10, widths=[32, 24])


def method(kind: type[Compressible] = Maestro, model: nn.Module | None = None, **settings: Any) -> Any:
    made = kind(model=model or network(), num_classes=10, optimizer=SGD, **settings)
    made.streams = Streams(0)
    return made


def digits(**settings: Any) -> Digits:
    sizes = {"n_train": 400, "n_val": 200, "n_test": 300, "batch_size": 50, "eval_batch_size": 100}
    facts = {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": 10}
    return Digits(root="", cache="", **(facts | sizes | settings))


def batch(n: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.rand(n, 1, 8, 8, generator=generator), "y": torch.arange(n)}


# Ordered dropout ----------------------------------------------------------------------------


def test_network_in_factors_starts_at_the_function_of_the_dense_one() -> None:
    dense = network()
    torch.testing.assert_close(method(model=network()).eval()(batch()["x"]), dense(batch()["x"]), rtol=0, atol=1e-5)
    lenet, x = LeNet([1, 28, 28], 10), torch.rand(3, 1, 28, 28)
    expected = lenet(x)
    torch.testing.assert_close(method(model=lenet)(x), expected, rtol=0, atol=1e-5)


def test_one_pass_of_the_sampler_yields_every_pair_once_and_then_another_order() -> None:
    maestro = method()
    maestro.layers[1].rank = 5
    pairs = [(i, b) for i, rank in enumerate([32, 5, 10]) for b in range(1, rank + 1)]
    passes = [[maestro.draw() for _ in pairs] for _ in range(2)]
    for drawn in passes:
        assert Counter(drawn) == Counter(pairs)
    assert passes[0] != passes[1]


def test_a_step_cuts_exactly_one_layer() -> None:
    maestro = method()
    used: list[list[int]] = []
    for layer in maestro.layers:
        layer.register_forward_hook(lambda layer, *_: used[-1].append(layer.sampled))
    for _ in range(20):
        used.append([])
        drawn = maestro.augment(batch())
        maestro.predict_batch(drawn)
        layer, components = drawn["drawn"].tolist()
        assert used[-1] == [components if i == layer else None for i in range(3)]
    assert all(layer.sampled is None for layer in maestro.layers)
    used.append([])
    maestro.predict_batch(batch())  # evaluation is not cut
    assert used[-1] == [None] * 3


def test_gradient_of_what_is_cut_off_is_zero_and_all_else_learns() -> None:
    maestro = method(group_lasso=0.0)
    drawn = batch() | {"drawn": torch.tensor([1, 3])}
    maestro.train()
    maestro.objective(drawn, maestro.predict_batch(drawn)).backward()
    for i, layer in enumerate(maestro.layers):
        assert layer.u.grad[:, :3].abs().sum() > 0
        assert bool(layer.u.grad[:, 3:].any()) == (i != 1)
        assert bool(layer.v.grad[3:].any()) == (i != 1)


def test_without_sampling_lasso_and_threshold_the_factors_are_trained_plainly(fit: Callable[..., Any]) -> None:
    maestro, data = method(**OFF), digits()
    plain = method(**OFF).model
    fit(maestro, data, max_epochs=2)
    streams, optimizer = Streams(0), SGD(plain.parameters())
    for epoch in range(2):
        for rows in torch.randperm(400, generator=streams.order.at(epoch).torch).split(50):
            optimizer.zero_grad()
            F.cross_entropy(plain(data.splits["train"]["x"][rows]), data.splits["train"]["y"][rows]).backward()
            optimizer.step()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(maestro.model.state_dict()[name], tensor), name


def test_deck_survives_a_checkpoint() -> None:
    maestro, other = method(), method()
    for _ in range(5):
        maestro.draw()
    checkpoint: dict[str, Any] = {}
    maestro.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    assert [other.draw() for _ in range(100)] == [maestro.draw() for _ in range(100)]


# Group lasso and shrinking ------------------------------------------------------------------


def test_lasso_of_one_component_is_the_sum_of_its_norms() -> None:
    maestro = method(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), group_lasso=0.5).train()
    layer = maestro.layers[0]
    layer.rank = 1
    losses = maestro.objective(batch(), maestro.predict_batch(batch()))
    expected = 0.5 * (layer.u[:, 0].norm() + layer.v[0].norm())
    torch.testing.assert_close(losses["lasso"], expected)
    torch.testing.assert_close(losses["fit"], F.cross_entropy(maestro(batch()["x"]), batch()["y"]))


def test_lasso_sums_the_tails_not_the_columns() -> None:
    maestro = method(group_lasso=1.0).train()
    expected = sum(
        factor[:, b:].norm()
        for layer in maestro.layers
        for factor in (layer.u, layer.v.T)
        for b in range(factor.shape[1])
    )
    torch.testing.assert_close(maestro.objective(batch(), maestro(batch()["x"]))["lasso"], expected, rtol=1e-5, atol=0)
    assert torch.is_tensor(maestro.eval().objective(batch(), maestro(batch()["x"])))  # evaluation has no lasso


def test_shrinking_keeps_the_prefix_above_the_threshold_and_all_tensors() -> None:
    maestro = method(threshold=0.7)
    shapes = [tuple(layer.u.shape) for layer in maestro.layers]
    kept = [int((layer.u.norm(dim=0).square().flip(0).cumsum(0).flip(0) >= 0.7).sum()) for layer in maestro.layers]
    maestro.draw()
    maestro.shrink()  # right after the start both tails are equal
    assert [layer.rank for layer in maestro.layers] == kept
    assert any(rank < layer.v.shape[0] for rank, layer in zip(kept, maestro.layers, strict=True))
    assert not maestro.deck
    assert [tuple(layer.u.shape) for layer in maestro.layers] == shapes
    assert [row["rank"] for row in maestro.tables["ranks"]] == kept


def test_threshold_relative_to_the_start() -> None:
    maestro = method(threshold=1e-3, relative=True)
    assert maestro.threshold == pytest.approx(1e-3 * torch.cat([i.importance() for i in maestro.layers]).mean().item())
    assert method(threshold=1e-3).threshold == 1e-3


def test_everything_may_be_cut() -> None:
    maestro = method(threshold=1e6)
    maestro.shrink()
    assert [layer.rank for layer in maestro.layers] == [0, 0, 0]
    assert "drawn" not in maestro.augment(batch())
    torch.testing.assert_close(maestro(batch()["x"]), maestro.layers[-1].bias.expand(6, -1))
    assert maestro.train().objective(batch(), maestro(batch()["x"]))["lasso"] == 0


def test_full_pass_teaches_the_cut_network(fit: Callable[..., Any]) -> None:
    maestro = method(full_pass=True, group_lasso=0.0).train()
    drawn = batch() | {"drawn": torch.tensor([0, 2])}
    output, full = maestro.predict_batch(drawn), maestro(batch()["x"])
    losses = maestro.objective(drawn, output)
    torch.testing.assert_close(losses["full"], F.cross_entropy(full, batch()["y"]))
    torch.testing.assert_close(losses["fit"], -(full.softmax(1) * output.log_softmax(1)).sum(1).mean())
    gradients = torch.autograd.grad(losses["fit"], maestro.layers[0].u, retain_graph=True)[0]
    assert not gradients[:, 2:].any()  # the teacher is no path of the gradient


# The theorem --------------------------------------------------------------------------------


def linear(**settings: Any) -> tuple[LinearMaestro, LinearMap]:
    torch.manual_seed(0)
    model = MLP(9, 6, widths=[], bias=False)
    made = LinearMaestro(model=model, group_lasso=0.0, threshold=0.0, init="default", optimizer=sgd_half, **settings)
    return made, LinearMap(root="", cache="", batch_size=9, steps_per_epoch=300)


sgd_half = partial(torch.optim.SGD, lr=0.5)


def test_sampling_finds_the_best_approximation_of_every_rank(fit: Callable[..., Any]) -> None:
    worst = {}
    for sample in (True, False):
        maestro, data = linear(sample=sample)
        fit(maestro, data, max_epochs=4)
        worst[sample] = max(maestro.errors())
        assert len(maestro.tables["relerr"]) == 4 * 6
    assert worst[True] < 5e-3
    assert worst[False] > 0.05


def test_errors_are_zero_at_the_svd() -> None:
    maestro, data = linear()
    data.streams = Streams(3)
    data.setup()
    y = data.splits["train"]["y"]
    layer = nn.Linear(9, 6, bias=False)
    layer.weight.data = y.T.clone()
    maestro.model.layers[0] = Factored.of(layer)
    maestro.layers = layers_of(maestro.model)
    maestro.targets = lambda: (data.splits["train"]["x"], y)
    assert max(maestro.errors()) < 1e-10
    torch.testing.assert_close(maestro.norms()[:3], torch.linalg.svdvals(y)[:3])


# Cutting to a budget ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Maestro, Dense])
@pytest.mark.parametrize("relative", [False, True])
def test_cuts_keep_the_budget_and_drop_the_least_important(kind: type[Compressible], relative: bool) -> None:
    made = method(kind)
    factored = made.factored()
    previous = [layer.rank for layer in layers_of(factored)]
    full = count_parameters(network())
    for share in (1.0, 0.75, 0.5, 0.25, 0.1):
        ranks = made.cut(factored, share * full, relative)
        size = count_parameters(deploy(factored, ranks))
        assert size <= share * full
        assert all(rank <= before for rank, before in zip(ranks, previous, strict=True))
        previous = list(ranks)
        kept, lost = [], []
        for layer, rank in zip(layers_of(factored), ranks, strict=True):
            values = made.importance(layer) / (made.importance(layer)[0] if relative else 1)
            kept += values[:rank].tolist()
            lost += values[rank:].tolist()
        assert min(kept) >= max(lost, default=0)
    assert list(made.cut(factored, full, relative)) == [32, 24, 10]  # the full network multiplied out keeps this budget


def test_energy_of_the_dense_network() -> None:
    dense = method(Dense)
    layer = layers_of(dense.factored())[0]
    s = torch.linalg.svdvals(dense.model.layers[0].weight)
    torch.testing.assert_close(dense.importance(layer)[5], s[5:].norm())


def test_report_of_a_run(fit: Callable[..., Any]) -> None:
    def tested(kind: type[Compressible], **settings: Any) -> tuple[Any, dict[str, float]]:
        made, data = method(kind, **settings), digits()
        trainer = fit(made, data, max_epochs=6)
        trainer.test(made, datamodule=data, verbose=False)
        return made, {name: float(value) for name, value in trainer.callback_metrics.items()}

    dense, of_dense = tested(Dense)
    size = count_parameters(network())
    assert of_dense["cost/params"] == size
    assert of_dense["cost/macs"] == size - 66
    whole, *cuts = dense.tables["cuts"]
    assert whole["acc"] == pytest.approx(of_dense["test/acc"])
    assert dense.panel["svd_posthoc"]["cost/params"] <= pufferfish_size(network())
    mean = sum(row["acc"] for row in cuts[:5]) / 5
    assert (
        dense.panel["svd_posthoc"]["test/acc_over_budgets"] == pytest.approx(mean) == of_dense["test/acc_over_budgets"]
    )

    maestro, of_maestro = tested(Maestro, group_lasso=3e-3, threshold=1e-2, relative=True)
    assert of_maestro["cost/params"] < size
    assert maestro.tables["cuts"][0]["acc"] == pytest.approx(of_maestro["test/acc"])
    assert maestro.panel["matched"]["cost/params"] <= pufferfish_size(network())


def test_statistics_of_batch_normalisation_are_those_of_the_tested_weights(fit: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    made, data = method(model=MLP(64, 10, widths=[16], norm="batch")), digits()
    trainer = fit(made, data)
    trainer.test(made, datamodule=data, verbose=False)
    hidden = made.model.layers[0](data.splits["train"]["x"].flatten(1))
    torch.testing.assert_close(made.model.layers[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)


# Pufferfish ---------------------------------------------------------------------------------


def test_pufferfish_is_dense_first_and_then_the_truncated_svd(fit: Callable[..., Any]) -> None:
    fish, dense, data = method(Pufferfish, warmup_epochs=2), method(Dense), digits()
    fit(fish, data, max_epochs=2)
    fit(dense, digits(), max_epochs=2)
    x = data.splits["test"]["x"]
    assert torch.equal(fish(x), dense(x))
    warmed = [layer for layer in fish.model.modules() if isinstance(layer, Warmed)]
    assert len(warmed) == 1  # neither the first nor the last layer
    warmed[0].switch()
    p, s, qt = torch.linalg.svd(dense.model.layers[2].weight, full_matrices=False)
    torch.testing.assert_close(warmed[0].factors.u @ warmed[0].factors.v, (p[:, :6] * s[:6]) @ qt[:6])
    assert warmed[0].factors.bias is warmed[0].dense.bias


def test_pufferfish_trains_what_it_computes_with(fit: Callable[..., Any]) -> None:
    fish, data = method(Pufferfish, warmup_epochs=1), digits()
    fit(fish, data, max_epochs=3)
    warmed = next(layer for layer in fish.model.modules() if isinstance(layer, Warmed))
    assert warmed.factored
    start = Factored.of(warmed.dense, 6)
    assert not torch.allclose(start.u @ start.v, warmed.factors.u @ warmed.factors.v, atol=1e-3)
    again = method(Pufferfish, warmup_epochs=1)
    again.load_state_dict(fish.state_dict())
    x = data.splits["test"]["x"]
    assert torch.equal(again(x), fish(x))
    assert (
        count_parameters(fish.deployed())
        == pufferfish_size(network())
        == count_parameters(network()) - 32 * 24 + 6 * 56
    )


# Mistakes, and the paper's scale ------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"group_lasso": -1.0}, "method.group_lasso"),
        ({"threshold": -1.0}, "method.threshold"),
        ({"init": "zeros"}, "method.init"),
        ({"budgets": [0.5, 0.0]}, "method.budgets"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        method(**wrong)
    with pytest.raises(ValueError, match="no linear layer"):
        method(model=nn.Flatten())
    with pytest.raises(ValueError, match=r"method\.warmup_epochs"):
        method(Pufferfish, warmup_epochs=-1)


def test_paper_scale_takes_two_steps(tmp_path: Path) -> None:
    from replicata.run.compose import compose
    from replicata.run.execute import build
    from replicata.run.identity import resolved

    config = resolved(compose(["experiment=efficient/maestro_paper"]))
    data, maestro = build(config, Streams(0), {})
    optimizer = maestro.configure_optimizers()["optimizer"]
    maestro.train()
    for _ in range(2):
        drawn = maestro.augment({"x": torch.rand(4, *data.in_shape), "y": torch.arange(4)})
        optimizer.zero_grad()
        loss = sum(maestro.objective(drawn, maestro.predict_batch(drawn)).values())
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
