"""Fidelity checks of MIP: what only the right method satisfies."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replicata.data.vision.images import Digits
from replicata.data.vision.transforms import rotate
from replicata.methods.adaptive.mip import BayesianHypernetwork, RotationHypernetwork
from replicata.models.plain_cnn import PlainCNN
from replicata.nn.functional import Functional
from replicata.nn.hypernetwork import GAIN, Hypernetwork, encode, fan_in, flatten, initial_weights, unflatten
from replicata.streams import Streams

STAGES = [{"channels": 16, "pool": 2}, {"channels": 32}]
DEFAULT = {"encoding": "none", "residual": False}


def primary() -> PlainCNN:
    return PlainCNN([1, 8, 8], 10, STAGES)


def rotation(seed: int = 0, **settings: Any) -> RotationHypernetwork:
    with Streams(seed).init.as_global():
        method = RotationHypernetwork(
            model=primary(), num_classes=10, optimizer=partial(torch.optim.Adam, lr=1e-3), **settings
        )
    method.streams = Streams(seed)
    return method


def digits(**settings: Any) -> Digits:
    sizes = {"n_train": 100, "n_val": 100, "n_test": 100, "batch_size": 20, "eval_batch_size": 64}
    facts = {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": 10}
    return Digits(root="", cache="", **(facts | sizes | settings))


def spread(weights: dict[str, Tensor]) -> float:
    return deviation(torch.cat([weight.flatten() for weight in weights.values() if weight.ndim == 4]))


def deviation(values: Tensor) -> float:
    return float(values.detach().std())


# The parametrisation ------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_encoding_has_a_constant_norm(values: list[float]) -> None:
    z = torch.tensor(values)
    assert encode(z, "cos_sin").norm() == pytest.approx(math.sqrt(len(values)), rel=1e-6)
    assert encode(z, "z_1mz").abs().sum() == pytest.approx(len(values), rel=1e-6)


def test_encoding_at_the_ends_of_the_range() -> None:
    ones, zeros = torch.ones(3), torch.zeros(3)
    assert torch.allclose(encode(zeros, "cos_sin"), torch.cat([ones, zeros]), atol=1e-7)
    assert torch.allclose(encode(ones, "cos_sin"), torch.cat([zeros, ones]), atol=1e-7)


@settings(max_examples=25)
@given(st.floats(0.01, 100), st.floats(0.01, 1))
def test_default_is_homogeneous_and_mip_is_not(factor: float, gamma: float) -> None:
    default, mip = rotation(**DEFAULT), rotation()
    point = torch.tensor([gamma], dtype=torch.float64)
    scaled, plain = default.weights(factor * point), default.weights(point)
    for name, weight in plain.items():
        torch.testing.assert_close(scaled[name], factor * weight, rtol=1e-5, atol=1e-6 * factor)
    if not 0.8 < factor < 1.25:
        assert spread(mip.weights(factor * point)) != pytest.approx(factor * spread(mip.weights(point)), rel=0.05)


def test_tenfold_input_gives_tenfold_weights_only_by_default() -> None:
    x = torch.rand(4, 1, 8, 8)

    def ratio(method: RotationHypernetwork) -> float:
        return method.scale(x, 1.0)["weight_std"] / method.scale(x, 0.1)["weight_std"]

    assert ratio(rotation(**DEFAULT)) == pytest.approx(10, rel=1e-4)
    assert 0.8 <= ratio(rotation()) <= 1.25


def frozen_at_theta0(**given: Any) -> RotationHypernetwork:
    """MIP whose hypernetwork adds nothing, and in which only theta_0 is trained."""
    method = rotation(**given)
    for name, parameter in method.hypernetwork.named_parameters():
        parameter.requires_grad_(name == "head.bias")
    nn.init.zeros_(method.hypernetwork.head.weight)
    return method


def test_without_the_change_weights_are_theta0_for_every_gamma() -> None:
    method = frozen_at_theta0()
    theta0 = method.hypernetwork.head.bias
    for z in (0.0, 0.3, 1.0):
        assert torch.equal(flatten(method.weights(torch.tensor([z]))), theta0)


def test_training_theta0_alone_is_training_a_plain_network(fit: Callable[..., Any]) -> None:
    method, data = frozen_at_theta0(), digits()
    plain = primary()
    plain.load_state_dict({name: w.detach() for name, w in method.weights(torch.zeros(1)).items()})
    fit(method, data, max_epochs=4)

    streams, optimizer = Streams(0), torch.optim.Adam(plain.parameters(), lr=1e-3)
    for epoch in range(4):
        for rows in torch.randperm(100, generator=streams.order.at(epoch).torch).split(20):
            gamma = float(torch.rand(1, generator=streams.noise.torch))
            x, y = rotate(data.splits["train"]["x"][rows], 90 * gamma), data.splits["train"]["y"][rows]
            optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            optimizer.step()
    x = data.splits["test"]["x"]
    with torch.no_grad():
        torch.testing.assert_close(method.predict_batch({"x": x, "gamma": torch.zeros(1)}), plain(x), rtol=0, atol=1e-5)


def test_network_without_hypernetwork_is_theta0() -> None:
    method = rotation(widths=None)
    assert [name for name, _ in method.named_parameters()] == ["hypernetwork.theta"]
    assert torch.equal(flatten(method.weights(torch.zeros(1))), flatten(method.weights(torch.ones(1))))


def test_theta0_as_bias_and_as_a_parameter_have_the_same_gradients() -> None:
    method = rotation()
    x, y, gamma = torch.rand(8, 1, 8, 8), torch.arange(8), torch.tensor([0.4])
    F.cross_entropy(method.predict_batch({"x": x, "gamma": gamma}), y).backward()
    hyper = method.hypernetwork
    theta0 = nn.Parameter(hyper.head.bias.detach().clone())
    weight = nn.Parameter(hyper.head.weight.detach().clone())
    change = F.linear(hyper.trunk(encode(gamma, "cos_sin")), weight)
    loss = F.cross_entropy(method.primary(unflatten(theta0 + change, method.primary.spec), x), y)
    apart = torch.autograd.grad(loss, [theta0, weight, hyper.trunk[0].weight])
    together = [hyper.head.bias.grad, hyper.head.weight.grad, hyper.trunk[0].weight.grad]
    for a, b in zip(apart, together, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_initial_spreads() -> None:
    spec = {"a.weight": torch.Size([64, 32, 3, 3]), "a.bias": torch.Size([64]), "b.weight": torch.Size([100, 64])}
    torch.manual_seed(0)
    mip = Hypernetwork(spec, 1, [16, 128], encoding="cos_sin", residual=True)
    theta0 = unflatten(mip.head.bias, spec)
    for name in ("a.weight", "b.weight"):
        assert deviation(theta0[name]) == pytest.approx(math.sqrt(2 / (1 + 0.01**2) / fan_in(spec[name])), rel=0.05)
    assert not theta0["a.bias"].any()
    assert not mip.trunk[0].bias.any()
    for rows, shape in zip(mip.head.weight.split([s.numel() for s in spec.values()]), spec.values(), strict=True):
        assert deviation(rows) == pytest.approx(GAIN / math.sqrt(shape.numel()), rel=0.05)
    assert deviation(mip.trunk[2].weight) == pytest.approx(GAIN / math.sqrt(128), rel=0.05)


def test_default_output_layer_has_the_targets_own_scale() -> None:
    spec = {"a.weight": torch.Size([64, 32, 3, 3]), "a.bias": torch.Size([64])}
    torch.manual_seed(0)
    default = Hypernetwork(spec, 1, [16, 256])
    assert deviation(default.trunk[2].weight) == pytest.approx(GAIN / math.sqrt(16), rel=0.05)
    default.trunk = nn.Sequential(nn.Linear(1, 256))
    nn.init.zeros_(default.trunk[0].weight)
    nn.init.ones_(default.trunk[0].bias)  # activations of unit second moment
    generated = default(torch.ones(1))
    assert deviation(generated["a.weight"]) == pytest.approx(math.sqrt(2 / 288), rel=0.05)
    assert not generated["a.bias"].any()


# The primary network ------------------------------------------------------------------------


def test_functional_forward_equals_a_module_with_the_same_weights() -> None:
    method, module = rotation(), primary()
    weights = method.weights(torch.tensor([0.7]))
    module.load_state_dict({name: weight.detach() for name, weight in weights.items()})
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(method.primary(weights, x), module(x), rtol=0, atol=1e-6)


def test_gradient_reaches_omega_and_theta0_and_no_leaf_is_left_in_the_primary() -> None:
    method = rotation()
    assert list(method.primary.parameters()) == []
    assert sum(shape.numel() for shape in method.primary.spec.values()) == 5130
    loss = method.predict_batch({"x": torch.rand(4, 1, 8, 8), "gamma": torch.tensor([0.5])}).logsumexp(1).sum()
    loss.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@settings(max_examples=30)
@given(st.floats(1e-3, 1e3), st.integers(0, 2**24))
def test_scaling_the_declared_range_leaves_mip_bit_identical(scale: float, draw: int) -> None:
    z = torch.tensor([draw / 2**24])
    one, other = rotation(), rotation(gamma_range=(0.0, scale))
    assert torch.equal(one.relative(one.at(z)), other.relative(other.at(z)))


def test_range_of_ten_leaves_mip_bit_identical_and_multiplies_the_default_by_ten(fit: Callable[..., Any]) -> None:
    x = torch.rand(3, 1, 8, 8)
    outputs = []
    for high in (1.0, 10.0):
        method = rotation(gamma_range=(0.0, high))
        fit(method, digits(), max_epochs=1)
        outputs.append(method.predict_batch({"x": x, "gamma": method.draw(Streams(5).noise)}))
    assert torch.equal(*outputs)
    one, ten = (rotation(gamma_range=(0.0, high), **DEFAULT) for high in (1.0, 10.0))
    for gamma in (Streams(seed).noise for seed in range(5)):
        z = torch.rand(1, generator=gamma.torch)
        small, large = one.weights(one.at(z)), ten.weights(ten.at(z))
        for name, weight in small.items():
            torch.testing.assert_close(large[name], 10 * weight, rtol=1e-5, atol=1e-6)


def test_agrees_with_the_authors_library() -> None:
    hyperlight = pytest.importorskip("hyperlight")
    from hyperlight.hypernet.encoding import encode_input

    z = torch.rand(7, 3)
    torch.testing.assert_close(encode(z, "cos_sin"), encode_input(z, "cos|sin"), rtol=0, atol=1e-6)
    torch.testing.assert_close(encode(z, "z_1mz"), encode_input(z, "z|1-z"), rtol=0, atol=1e-6)
    spec = Functional(primary()).spec
    theirs = hyperlight.HyperNet({"h": (3,)}, {name: tuple(shape) for name, shape in spec.items()}, [16, 64])
    ours = Hypernetwork(spec, 3, [16, 64], encoding="cos_sin", residual=True)
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    for mine, yours in pairs:
        mine.copy_(yours)
    expected = theirs(h=z[:1])
    for name, weight in ours(z[0]).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)


# The two problems ---------------------------------------------------------------------------


def test_each_step_draws_one_gamma_and_turns_the_batch_by_it() -> None:
    method = rotation()
    batch = {"x": torch.rand(6, 1, 8, 8), "y": torch.arange(6)}
    first, second = method.augment(batch), method.augment(batch)
    assert first["gamma"] != second["gamma"]
    assert torch.equal(first["x"], rotate(batch["x"], 90 * float(first["gamma"])))


def test_evaluation_averages_over_five_gammas(fit: Callable[..., Any]) -> None:
    method, data = rotation(), digits()
    trainer = fit(method, data, max_epochs=3)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    x, y = data.splits["val"]["x"], data.splits["val"]["y"]
    with torch.no_grad():
        hits = [
            (method.primary(method.weights(torch.tensor([z])), rotate(x, 90 * z)).argmax(1) == y).float().mean()
            for z in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
    assert logged["val/acc"] == pytest.approx(float(torch.stack(hits).mean()), abs=1e-6)
    assert len(method.evaluations) == 3
    assert logged["val/acc_mean"] == pytest.approx(sum(method.evaluations) / 3)
    assert [row["gamma"] for row in method.tables["scale"]] == pytest.approx([n / 10 for n in range(1, 11)])
    assert 0.8 <= logged["train/weight_std_ratio"] <= 1.25


def test_evaluations_survive_a_checkpoint() -> None:
    method, other = rotation(), rotation()
    method.evaluations = [0.25, 0.5]
    checkpoint: dict[str, Any] = {}
    method.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    assert other.evaluations == [0.25, 0.5]


def test_bayesian_prediction_is_the_mean_probability_over_draws() -> None:
    method = BayesianHypernetwork(model=primary(), num_classes=10, gamma_dim=10, draws=4)
    method.streams = Streams(0)
    method.setup("fit")
    batch = {"x": torch.rand(12, 1, 8, 8), "y": torch.arange(12) % 10}
    with torch.no_grad():
        method._evaluate("test", batch)
        gammas = [method.draw(method.streams.init.at(number)) for number in range(4)]
        logits = torch.stack([method.predict_batch(batch | {"gamma": gamma}) for gamma in gammas])
    mean = logits.softmax(-1).mean(0)
    assert len({gamma.sum().item() for gamma in gammas}) == 4
    scores = method.meters["test"].compute()
    assert scores["test/nll"] == pytest.approx(float(F.nll_loss(mean.log(), batch["y"])), rel=1e-5)
    assert scores["test/acc"] == pytest.approx(float((mean.argmax(1) == batch["y"]).float().mean()))


def test_rest_of_the_primary_network_is_trained_as_usual() -> None:
    model = PlainCNN([1, 8, 8], 10, STAGES, norm="batch")
    method = RotationHypernetwork(model=model, num_classes=10)
    left = [name for name, _ in method.primary.named_parameters()]
    assert left == [f"module.stages.{n}.norm.{kind}" for n in (0, 1) for kind in ("weight", "bias")]
    before = model.stages[0].norm.running_mean.clone()
    method.on_train_batch_start({"x": torch.rand(4, 1, 8, 8)}, 0)  # measuring changes no running statistics
    assert torch.equal(model.stages[0].norm.running_mean, before)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"gamma_range": (1.0, 1.0)}, "method.gamma_range"),
        ({"widths": [16, 0]}, "method.widths"),
        ({"encoding": "cosin"}, "method.encoding.*cos_sin"),
        ({"eval_points": 1}, "method.eval_points"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        rotation(**wrong)
    with pytest.raises(ValueError, match=r"method\.draws"):
        BayesianHypernetwork(model=primary(), num_classes=10, draws=0)
    with pytest.raises(ValueError, match=r"method\.gamma_dim"):
        BayesianHypernetwork(model=primary(), num_classes=10, gamma_dim=0)


def test_independent_weights_start_as_the_network_would() -> None:
    spec = Functional(primary()).spec
    torch.manual_seed(0)
    weights = initial_weights(spec)
    assert deviation(weights["stages.1.conv.weight"]) == pytest.approx(math.sqrt(2 / 144), rel=0.05)
    assert not weights["head.bias"].any()


# The experiment -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["adaptive/mip", "adaptive/mip_bayesian"])
def test_smoke_run_records_metrics_and_tables(replicata: Any, records: Any, method: str) -> None:
    called = replicata("run", "experiment=adaptive/mip", f"method={method}", "--smoke")
    assert called.status == 0, called.err
    ((folder, record),) = records().items()
    expected = {"train/weight_std_ratio", "train/grad_norm_log_std", "val/acc_mean", "test/acc"}
    assert expected <= record["metrics"].keys()
    assert sorted(path.name for path in (Path(folder) / "tables").iterdir()) == ["gradients.parquet", "scale.parquet"]


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_evaluate_as_one(replicata: Any, records: Any) -> None:
    sizes = ["data.n_test=101", "data.eval_batch_size=50", "trainer.max_epochs=0"]
    for accelerator in ("cpu", "ddp_cpu"):
        called = replicata("run", "experiment=adaptive/mip", f"accelerator={accelerator}", *sizes)
        assert called.status == 0, called.err
    one, two = (record["metrics"] for record in records().values())
    assert one["test/acc"] == pytest.approx(two["test/acc"], abs=1e-6)
    assert one["test/loss"] == pytest.approx(two["test/loss"], rel=1e-5)
