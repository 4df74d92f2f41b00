"""Fidelity checks of TempNet: what only the right method satisfies."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from replicata.data.text.character_windows import CharacterWindows
from replicata.data.vision.fashion_scenes import FashionScenes
from replicata.methods.multimodal.tempnet import (
    BINS,
    EmbeddingTemperature,
    LogitTemperature,
    TempNet,
    TempNetLM,
    coloured_text,
    entropy,
    newton_temperature,
    own_perplexity,
    robust_loss,
)
from replicata.models.clip import CLIP
from replicata.models.gpt import GPT
from replicata.models.rnn_classifier import RNNClassifier
from replicata.models.strided_cnn import StridedCNN
from replicata.nn.frozen import Frozen
from replicata.run.compose import compose
from replicata.run.execute import build
from replicata.run.identity import resolved
from replicata.streams import Streams
from replicata.tasks.sogclr import ISogCLR, SogCLR
from replicata.tasks.tokens import Tokens

K = 65


def logits(seed: int, rows: int = 8, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, K, generator=rng).double(), torch.randint(K, (rows,), generator=rng)


def pairs(size: int = 10, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(size, width, generator=rng), dim=1) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_()


def waves(step: float, *shape: int) -> Tensor:
    """Numbers that any program can make again."""
    return torch.sin(step * torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)).reshape(shape).float()


def tempnet(examples: int = 10, **changes: Any) -> TempNet:
    with Streams(0).init.as_global():
        text = RNNClassifier(42, 8, embedding=8, cell="gru", hidden=8)
        model = CLIP(StridedCNN([3, 32, 32], 8, [4, 8, 8]), text, width=8)
        settings_ = {"rho": 1.0, "tau_min": 0.01, "tau_max": 0.2, "prototypes": 6, "tempnet_lr": 0.01} | changes
        made = TempNet(model=model, examples=examples, optimizer=partial(torch.optim.AdamW, lr=1e-3), **settings_)
    made.streams = Streams(0)
    return made


def lm(**changes: Any) -> TempNetLM:
    with Streams(0).init.as_global():
        model = GPT(K, 16, layers=1, width=16, heads=2)
        settings_ = {"rho": 3.07, "hidden": 16, "tempnet_lr": 0.01} | changes
        made = TempNetLM(model=model, vocab_size=K, optimizer=partial(torch.optim.AdamW, lr=1e-2), **settings_)
    made.streams = Streams(0)
    return made


def text() -> CharacterWindows:
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    return CharacterWindows("digits", context=16, vocab_size=K, shares=shares, root="", cache="", batch_size=64)


def scenes() -> FashionScenes:
    facts = {"in_shape": [3, 32, 32], "vocab_size": 42, "num_concepts": 48, "num_keys": 4512}
    sizes = {"n_train": 40, "n_val": 16, "n_test": 16, "n_single": 8, "batch_size": 20}
    return FashionScenes("digits", root="", cache="", skew=1.0, **facts, **sizes)  # type: ignore[arg-type]


# The robust loss: Eqs. (1) and (2) ----------------------------------------------------------


@given(st.integers(0, 999), st.floats(0.3, 6), st.floats(0.1, 4), st.floats(0.2, 8))
@settings(max_examples=30, deadline=None)
def test_its_slope_in_the_temperature_is_the_entropy_over_the_wanted_one(
    seed: int, tau: float, rho: float, scale: float
) -> None:
    h, y = logits(seed, scale=scale)
    taus = torch.full((len(h),), tau).double().requires_grad_()
    (slope,) = torch.autograd.grad(robust_loss(h, y, taus, rho).sum(), taus)
    torch.testing.assert_close(slope, entropy(h / tau) - (math.log(K) - rho), rtol=1e-5, atol=1e-5)


def test_its_minimum_over_the_temperature_is_the_dual_of_the_bounded_divergence() -> None:
    """A fine grid of temperatures against the best distribution within the bound, which is a softmax."""
    h, y = logits(3, rows=4)
    rho = 2.0
    grid = torch.logspace(-1, 1.5, 1001).double()
    least = torch.stack([robust_loss(h, y, tau.expand(4), rho) for tau in grid]).amin(0)
    shares = (h[:, None] / grid[:, None]).softmax(2)
    divergence = math.log(K) - torch.special.entr(shares).sum(2)
    gain = (shares * (h - h.gather(1, y[:, None]))[:, None]).sum(2)
    greatest = gain.masked_fill(divergence > rho, -torch.inf).amax(1)
    torch.testing.assert_close(least, greatest, rtol=0, atol=0.02)
    assert (least >= greatest - 1e-9).all()


def test_at_temperature_one_it_trains_like_cross_entropy() -> None:
    h, y = logits(0)
    h.requires_grad_()
    ours, plain = (
        torch.autograd.grad(loss, h)[0]
        for loss in (robust_loss(h, y, torch.ones(len(h)).double(), 3.0).mean(), F.cross_entropy(h, y))
    )
    torch.testing.assert_close(ours, plain)
    difference = robust_loss(h, y, torch.ones(len(h)).double(), 3.0) - F.cross_entropy(h, y, reduction="none")
    torch.testing.assert_close(difference, torch.full_like(difference, 3.0 - math.log(K)))


def test_the_ends_of_rho() -> None:
    h, y = logits(1)
    taus = torch.linspace(0.5, 4, len(h)).double()
    scaled = F.cross_entropy(h / taus[:, None], y, reduction="none")
    torch.testing.assert_close(robust_loss(h, y, taus, math.log(K)), taus * scaled)
    # rho = 0: the slope is negative unless the logits are uniform, so the best temperature is the largest.
    by_tau = torch.stack([robust_loss(h, y, torch.full_like(taus, tau), 0.0) for tau in (0.5, 1.0, 2.0, 5.0)])
    assert (by_tau.diff(dim=0) < 0).all()
    flat = torch.stack([robust_loss(torch.zeros_like(h), y, torch.full_like(taus, tau), 0.0) for tau in (0.5, 5.0)])
    torch.testing.assert_close(flat[0], flat[1])


@given(st.integers(0, 999), st.floats(1.0, 2.5), st.floats(2, 6))
@settings(max_examples=25, deadline=None)
def test_newtons_temperature_has_the_wanted_entropy(seed: int, rho: float, scale: float) -> None:
    """For more than ten steps, as the floor of the variance slows those where two tokens are nearly alike."""
    h, _ = logits(seed, scale=scale)
    tau = newton_temperature(h, rho, steps=200)
    assert (tau > 0.01).all()
    wanted = torch.full((len(h),), math.log(K) - rho).double()
    torch.testing.assert_close(entropy(h / tau[:, None]), wanted, rtol=0, atol=1e-3)


def test_ten_newton_steps_find_what_a_grid_finds() -> None:
    h, y = logits(5, rows=6, scale=3.0)
    tau = newton_temperature(h, 3.07 / 2)
    grid = torch.linspace(0.05, 12, 2400).double()
    losses = torch.stack([robust_loss(h, y, at.expand(6), 3.07 / 2) for at in grid])
    torch.testing.assert_close(tau, grid[losses.argmin(0)], rtol=0.01, atol=0.01)


def test_ten_newton_steps_are_enough_for_nearly_all() -> None:
    h, _ = logits(6, rows=400)
    gap = (entropy(h / newton_temperature(h, 3.07)[:, None]) - (math.log(K) - 3.07)).abs()
    assert (gap < 1e-3).double().mean() > 0.9
    assert gap.median() < 1e-6


def test_without_a_bound_the_network_goes_to_its_largest_temperature() -> None:
    """rho = 0; for rho = log K to its smallest."""
    h, y = (part.float() if part.is_floating_point() else part for part in logits(2, rows=64))
    for rho, end in ((1e-3, 2.0), (math.log(K) - 1e-3, 0.1)):
        torch.manual_seed(0)
        network = LogitTemperature(K, 16, 0.1, 2.0)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            robust_loss(h, y, network(h), rho).mean().backward()
            optimizer.step()
        torch.testing.assert_close(network.eval()(h), torch.full((64,), end), rtol=0, atol=0.05)


# The networks: Eqs. (3), (4) and (6) --------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: LogitTemperature(K, 64, 0.5, 5.0), lambda: EmbeddingTemperature(K, 64, 0.5, 5.0)]
)
def test_at_the_start_all_inputs_have_temperatures_of_one_order_inside_the_range(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    network, (x, _) = make().eval(), logits(0, rows=200)
    x = F.normalize(x.float(), dim=1)
    score, tau = network.score(x), network(x)
    assert ((tau > 0.5) & (tau < 5.0)).all()
    assert score.std() < 0.2
    assert score.abs().max() < 1.5
    torch.testing.assert_close(tau, 0.5 + 4.5 * torch.sigmoid(score))
    assert (network.sum.weight == 1).all()
    assert (network.sum.bias == 0).all()


def test_the_networks_are_their_equations() -> None:
    torch.manual_seed(0)
    of_logits, of_vectors = LogitTemperature(K, 16, 0.5, 5.0).eval(), EmbeddingTemperature(8, 16, 0.01, 0.2).eval()
    h, z = logits(0)[0].float(), F.normalize(torch.randn(8, 8), dim=1)
    first = torch.sigmoid(of_logits.project(h / h.norm(dim=1, keepdim=True)))
    v = of_logits.compare(first)
    torch.testing.assert_close(of_logits.score(h), ((v.softmax(1) - 1 / 16) * v).sum(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(of_logits(7 * h), of_logits(h))  # the size of the logits does not matter
    a = torch.sigmoid(of_vectors.project(z)) @ F.normalize(of_vectors.prototypes, dim=1).t()
    u = (((a / 0.01).softmax(1) - 1 / 16) * torch.sigmoid(a)).sum(1)
    torch.testing.assert_close(of_vectors.score(z), u, rtol=1e-4, atol=1e-6)


def test_prototypes_start_as_the_other_sides_first_vectors() -> None:
    made, (image, said) = tempnet(), pairs()
    made.objective({"index": torch.arange(10)}, image, said)
    assert torch.equal(made.image_network.prototypes, said[:6])
    assert torch.equal(made.text_network.prototypes, image[:6])
    later = pairs(seed=1)
    made.objective({"index": torch.arange(10)}, *later)
    assert torch.equal(made.image_network.prototypes, said[:6])
    with pytest.raises(ValueError, match=r"method.prototypes=11 is more than the 10 pairs"):
        tempnet(prototypes=11).objective({"index": torch.arange(10)}, image, said)


# The contrastive objective: Eq. (5) ---------------------------------------------------------


@given(st.integers(0, 999), st.floats(0.05, 1))
@settings(max_examples=15, deadline=None)
def test_without_memory_the_slope_is_rho_less_the_divergence_of_the_weights(seed: int, tau: float) -> None:
    made, (image, said) = tempnet(gamma=1.0), pairs(seed=seed)
    rows = (image @ said.t()).detach()
    _, slope = made.estimate("image", rows - rows.diagonal()[:, None], torch.full((10,), tau), torch.arange(10))
    weights = (rows.clone().fill_diagonal_(-torch.inf) / tau).softmax(1)
    divergence = math.log(9) - torch.special.entr(weights).sum(1)
    torch.testing.assert_close(slope, -divergence, rtol=1e-3, atol=1e-4)


# What iSogCLR_TempNet_Loss of the authors' code (Bimodal_CL/models/losses.py) gives in each of four batches: the
# encoders' loss and its gradient on images and texts, along waves; the networks' loss and the sum of its gradient's
# sizes; the mean of the images' temperatures, the deviation of the texts'.
AUTHORS = [
    (0.05924, 0.15125, 0.26505, 0.12712, 0.10709, 0.10861, 0.00037),
    (1.56078, -0.74765, 0.65349, 0.00574, 0.01982, 0.10821, 0.00014),
    (0.3728, -0.04846, -0.03553, 0.47649, 0.53161, 0.10835, 0.00167),
    (0.14356, -0.08715, 0.00145, 1.01735, 0.99857, 0.1071, 0.00051),
]
ORDERS = ((3, 8, 0, 11, 5, 6), (1, 9, 4, 10, 2, 7), (7, 0, 2, 5, 9, 11), (6, 3, 10, 1, 8, 4))  # two epochs


def test_two_epochs_have_the_numbers_of_the_authors_code() -> None:
    made = tempnet(examples=12, rho=1.2, prototypes=4).eval()
    networks = (made.image_network, made.text_network)
    for network in networks:
        network.started.fill_(True)
        network.project.bias.data.zero_()
        network.project.weight.data.copy_(2 * waves(2.0, 8, 8))
        network.prototypes.data.copy_(2 * waves(1.9, 4, 8))
    weights = [weight for network in networks for weight in network.parameters()]
    for step, (order, expected) in enumerate(zip(ORDERS, AUTHORS, strict=True)):
        image = F.normalize(waves(1.7 + step, 6, 8), dim=1).requires_grad_()
        said = F.normalize(0.3 * image.detach() + waves(2.3 + step, 6, 8), dim=1).requires_grad_()
        losses = made.objective({"index": torch.tensor(order)}, image, said)
        encoders, temperatures = losses["image"] + losses["text"], losses["image_tau"] + losses["text_tau"]
        along = [float((part * waves(3.1, 6, 8)).sum()) for part in torch.autograd.grad(encoders, (image, said))]
        sizes = sum(float(part.abs().sum()) for part in torch.autograd.grad(temperatures, weights))
        with torch.no_grad():
            taus = float(made.image_network(image).mean()), float(made.text_network(said).std(correction=0))
        found = (float(encoders.detach()), *along, float(temperatures.detach()), sizes, *taus)
        assert found == pytest.approx(expected, rel=1e-3, abs=2e-5)


def test_each_loss_reaches_its_own_weights_only() -> None:
    made, (image, said) = tempnet(), pairs()
    losses = made.objective({"index": torch.arange(10)}, image, said)
    assert set(losses) == {"image", "text", "image_tau", "text_tau"}
    networks = [*made.image_network.parameters(), *made.text_network.parameters()]
    encoders, temperatures = losses["image"] + losses["text"], losses["image_tau"] + losses["text_tau"]
    for gradient in torch.autograd.grad(encoders, networks, retain_graph=True, allow_unused=True):
        assert gradient is None
    for gradient in torch.autograd.grad(temperatures, (image, said), retain_graph=True, allow_unused=True):
        assert gradient is None
    for gradient in torch.autograd.grad(encoders, (image, said), retain_graph=True):
        assert gradient.abs().sum() > 0
    for gradient in torch.autograd.grad(temperatures, networks):
        assert torch.isfinite(gradient).all()


def test_a_networks_loss_has_the_slope_of_the_table() -> None:
    """What TempNet does to its temperatures is what iSogCLR follows."""
    made, (image, said) = tempnet(rho=1.3), pairs()
    index = torch.arange(10)
    made.image_network.start(said.detach())
    made.text_network.start(image.detach())
    made.eval()
    tau = made.temperatures("image", image, index).detach()
    slopes: dict[str, Tensor] = {}

    def learn(side: str, tau: Tensor, slope: Tensor, index: Tensor) -> Tensor:
        slopes[side] = slope
        return tau.sum()

    made.learn = learn  # type: ignore[method-assign]
    made.objective({"index": index}, image, said)
    rows = (image @ said.t()).detach()
    fresh = tempnet(rho=1.3)
    _, expected = fresh.estimate("image", rows - rows.diagonal()[:, None], tau, index)
    torch.testing.assert_close(slopes["image"], expected)
    taus = tau.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fresh.learn("image", taus, expected, index), taus)
    torch.testing.assert_close(gradient, (expected + 1.3) / 10)


def test_networks_have_their_own_rate_and_no_decay() -> None:
    made = tempnet(tempnet_lr=0.07)
    for one in (made, lm(tempnet_lr=0.07)):
        optimizer = one.configure_optimizers()
        named = [group for group in optimizer.param_groups if group.get("name") == "tempnet"]
        assert [(group["lr"], group["weight_decay"]) for group in named] == [(0.07, 0.0)]
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in one.parameters()}


def test_temperatures_of_the_test_are_measured(fit: Callable[..., Any]) -> None:
    made, data = tempnet(examples=40), scenes()
    trainer = fit(made, data, max_epochs=2)
    (found,) = trainer.test(made, datamodule=data, verbose=False)
    test = data.transform(dict(data.splits["test"]))
    made.eval()
    with torch.no_grad():
        image = made.image_network(made.model.encode_image(test["image"]))
        said = made.text_network(made.model.encode_text(test["tokens"].flatten(0, 1), test["lengths"].flatten()))
    assert found["test/tau"] == pytest.approx(float((image.mean() + said.mean()) / 2), rel=1e-4)
    assert found["test/tau_std"] == pytest.approx(float((image.std() + said.std()) / 2), rel=1e-3)
    assert -1 <= found["test/tau_frequency"] <= 1
    rows = made.tables["temperatures"]
    assert [row["side"] for row in rows] == ["image"] * 16 + ["text"] * 16
    assert rows[3]["tau"] == pytest.approx(float(image[3]), rel=1e-4)
    histogram = made.tables["histogram"]
    assert len(histogram) == 4 * BINS
    assert sum(row["share"] for row in histogram) == pytest.approx(4)


# Language models ----------------------------------------------------------------------------


def test_the_frozen_model_is_the_one_that_was_trained_alone(fit: Callable[..., Any]) -> None:
    """Its first epochs are those of plain training, to the last bit; then the network alone learns."""
    plain = Tokens(model=lm().model, vocab_size=K, optimizer=partial(torch.optim.AdamW, lr=1e-2))
    fit(plain, text(), max_epochs=2)
    made = lm(freeze_after=0.5, tau_min=0.1, tau_max=2.0)
    before = [weight.detach().clone() for weight in made.tempnet.parameters()]
    data = text()
    trainer = fit(made, data, max_epochs=4)
    for name, weight in plain.model.named_parameters():
        assert torch.equal(weight, made.model.get_parameter(name)), name
    assert all(not torch.equal(old, new) for old, new in zip(before, made.tempnet.parameters(), strict=True))
    (found,) = trainer.test(made, datamodule=data, verbose=False)
    assert {"test/ppl", "test/ppl_at_tau", "test/entropy_gap", "test/tau", "test/tau_std"} <= set(found)


def test_a_model_with_weights_of_its_own_is_left_out_of_the_checkpoint(fit: Callable[..., Any]) -> None:
    made, data = lm(freeze_after=0.0), text()
    reference = {name: weight.clone() for name, weight in made.model.state_dict().items()}
    trainer = fit(made, data)
    assert all(name.startswith("tempnet.") for name in made.state_dict() if not name.startswith("scores"))
    assert all(torch.equal(weight, reference[name]) for name, weight in made.model.module.state_dict().items())  # type: ignore[union-attr]
    trainer.test(made, datamodule=data, verbose=False)


def test_what_is_measured_of_a_text(fit: Callable[..., Any]) -> None:
    made, data = lm(), text()
    trainer = fit(made, data)
    (found,) = trainer.test(made, datamodule=data, verbose=False)
    split = data.splits["test"]
    with torch.no_grad():
        h, y = made.eval().predict(split)
        tau = made.temperatures(h)
    scaled = h / tau[:, None]
    assert found["test/ppl_at_tau"] == pytest.approx(float(F.cross_entropy(scaled, y).exp()), rel=1e-4)
    gap = abs(float(entropy(scaled).mean()) - (math.log(K) - 3.07))
    assert found["test/entropy_gap"] == pytest.approx(gap, abs=1e-4)
    assert found["test/robust"] == pytest.approx(float(robust_loss(h, y, tau, 3.07).mean()), rel=1e-4)
    assert found["test/tau_std"] == pytest.approx(float(tau.std(correction=0)), rel=1e-2, abs=1e-5)
    (row,) = made.tables["text"]
    assert row["image"][:4] == b"\x89PNG"


def test_the_ablations_have_the_losses_they_are_named_for() -> None:
    h, y = (part.float() if part.is_floating_point() else part for part in logits(0))
    plain, newton = lm(robust=False).eval(), lm(temperature="newton")
    tau = plain.temperatures(h)
    torch.testing.assert_close(plain.objective(h, y), F.cross_entropy(h / tau[:, None], y))
    exact = newton_temperature(h, 3.07)
    torch.testing.assert_close(newton.objective(h, y), robust_loss(h, y, exact, 3.07).mean())
    assert not hasattr(newton, "tempnet")
    full = lm().eval()
    torch.testing.assert_close(full.objective(h, y), robust_loss(h, y, full.temperatures(h), 3.07).mean())


def test_a_network_of_logits_has_the_numbers_of_the_authors_code() -> None:
    """TempNet and tau_cross_entropy of GPT-2/megatron/model/tempnet.py: temperatures, loss, sizes of the gradients."""
    network = LogitTemperature(7, 4, 0.5, 5.0).eval()
    for layer, step in ((network.project, 2.0), (network.compare, 2.3)):
        layer.weight.data.copy_(2 * waves(step, *layer.weight.shape))
        layer.bias.data.zero_()
    h = (4 * waves(1.3, 6, 7)).requires_grad_()
    tau = network(h.detach())
    loss = robust_loss(h, torch.tensor([0, 6, 2, 3, 3, 1]), tau, 1.5).mean()
    assert tau.tolist() == pytest.approx([3.68336, 3.37691, 3.06023, 3.96697, 2.77388, 4.18511], abs=2e-5)
    assert float(loss.detach()) == pytest.approx(6.56833, abs=2e-5)
    layers = (network.log_scale, network.project.weight, network.compare.weight, network.sum.weight)
    sizes = [float(part.abs().sum()) for part in torch.autograd.grad(loss, (h, *layers))]
    assert sizes == pytest.approx([1.73099, 0.38583, 0.64577, 2.17984, 0.78313], rel=1e-4)


def test_logits_reach_the_network_without_gradient() -> None:
    made = lm().eval()
    h = logits(0)[0].float().requires_grad_()
    assert torch.autograd.grad(made.temperatures(h).sum(), h, allow_unused=True) == (None,)


def test_coloured_text_is_a_picture_of_that_shape() -> None:
    from matplotlib.image import imread

    small = imread(io.BytesIO(coloured_text(["to be", "or \nt"], torch.rand(2, 5))))
    large = imread(io.BytesIO(coloured_text(["to be or not"] * 2, torch.ones(2, 12))))
    assert large.shape[1] > small.shape[1]
    assert small.std() > 0.05


def test_own_perplexity_is_at_the_temperatures_there_are() -> None:
    assert own_perplexity({"metrics": {"test/ppl": 5.0, "test/ppl_at_tau": 5.5}}) == 5.5
    assert own_perplexity({"metrics": {"test/ppl": 5.0}}) == 5.0


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (tempnet, {"rho": 0.0}, r"method\.rho"),
        (tempnet, {"tau_min": 0.3}, "tau_min < tau_max"),
        (lm, {"rho": 4.3}, r"method\.rho must be between 0 and log K = 4\.17"),
        (lm, {"temperature": "table"}, r"method\.temperature"),
        (lm, {"temperature": "newton", "robust": False}, "needs robust=true"),
        (lm, {"freeze_after": 1.0}, r"method\.freeze_after"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


# Configs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms() -> dict[str, Any]:
    """Every arm's composed config."""
    name = "experiment=multimodal/tempnet"
    study = OmegaConf.to_container(compose([name]).study)
    assert isinstance(study, dict)
    track = study["tracks"]["lm"]
    declared: dict[str, Any] = {arm: ([], given) for arm, given in study["arms"].items()}
    declared |= {arm: (track["overrides"], given) for arm, given in track["arms"].items()}
    return {
        arm: compose([name, *shared, *(given["overrides"] if isinstance(given, dict) else given)])
        for arm, (shared, given) in declared.items()
    }


def test_arms_share_data_model_and_steps(arms: dict[str, Any]) -> None:
    for arm, config in arms.items():
        like = arms["lm_fixed" if arm.startswith("lm_") else "tempnet"]
        assert (config.data, config.model, config.optimizer) == (like.data, like.model, like.optimizer)
        if arm != "lm_tempnet_frozen":
            assert config.trainer == like.trainer
    frozen = arms["lm_tempnet_frozen"]
    assert int(frozen.method.freeze_after * frozen.trainer.max_epochs) == arms["lm_fixed"].trainer.max_epochs


def test_arms_are_what_their_names_say(arms: dict[str, Any]) -> None:
    targets = {arm: config.method["_target_"].rpartition(".")[2] for arm, config in arms.items()}
    assert (targets["sogclr"], targets["isogclr"], targets["tempnet"]) == ("SogCLR", "ISogCLR", "TempNet")
    assert (arms["clip_learnable"].method.learn_tau, arms["clip_fixed"].method.learn_tau) == (True, False)
    assert arms["cyclip"].method.tau == arms["clip_fixed"].method.tau
    own, table = arms["tempnet"].method, arms["isogclr"].method
    assert (own.tau_min, own.tau_max, own.gamma) == (table.tau_min, table.tau_max, table.gamma)
    batch = arms["tempnet"].data.batch_size
    assert max(own.rho, table.rho) < math.log(batch - 1)
    assert own.prototypes <= batch


def test_paper_scale_has_the_laptop_arms() -> None:
    laptop, paper = (compose([f"experiment=multimodal/tempnet{suffix}"]).study for suffix in ("", "_paper"))
    assert set(paper.arms) == set(laptop.arms)
    assert set(paper.tracks.lm.arms) == set(laptop.tracks.lm.arms)


def test_paper_scale_has_the_authors_rates() -> None:
    """8e-4 warmed up over 2,000 steps and down to 1e-5; the network's loses a tenth in each of 30 epochs."""
    config = compose(["experiment=multimodal/tempnet_paper"])
    default, own = config.scheduler.scheduler.default, config.scheduler.scheduler.tempnet
    assert config.optimizer.lr * default.final == pytest.approx(1e-5)
    assert (config.optimizer.lr, default.warmup) == (8e-4, 2000)
    assert default.steps == config.trainer.max_epochs * own.every == 30 * (config.data.n_train // (8 * 256))
    assert (config.method.tempnet_lr, own.rate) == (3e-5, 0.9)


def take_two_steps(method: Any, batch: dict[str, Tensor]) -> None:
    """Every weight that learns is changed by two steps, and stays finite."""
    method.configure_model()
    before = {name: weight.detach().double().sum() for name, weight in method.named_parameters()}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(method, DataLoader([batch, batch], batch_size=None))
    assert trainer.global_step == 2
    assert all(weight.isfinite().all() for weight in method.parameters())
    still = {name for name, weight in method.named_parameters() if weight.detach().double().sum() == before[name]}
    assert not still, still


@pytest.mark.slow
def test_gpt_at_paper_scale_takes_two_steps() -> None:
    track = OmegaConf.to_container(compose(["experiment=multimodal/tempnet_paper"]).study.tracks.lm.overrides)
    assert isinstance(track, list)
    config = resolved(compose(["experiment=multimodal/tempnet_paper", *track]))
    data, made = build(config, Streams(0), {})
    assert sum(p.numel() for p in made.model.parameters()) == 162_322_944
    assert made.tempnet.project.weight.shape == (256, 50304)
    assert data.context == 2048  # whose two steps take 50 s
    tokens = torch.randint(50257, (1, 128 + 1), generator=torch.Generator().manual_seed(0))
    take_two_steps(made, {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]})


def test_frozen_network_at_paper_scale_takes_two_steps() -> None:
    """The network of LLaMA's vocabulary, on a small GPT in place of LLaMA, which would not fit."""
    track = OmegaConf.to_container(compose(["experiment=multimodal/tempnet_paper"]).study.tracks.lm)
    assert isinstance(track, dict)
    words = [*track["overrides"], *track["arms"]["lm_tempnet_frozen"]]
    small = ["model=gpt", "model.layers=1", "model.width=32", "model.heads=2"]
    config = resolved(compose(["experiment=multimodal/tempnet_paper", *words, *small]))
    data, made = build(config, Streams(0), {})
    assert (made.tempnet.project.weight.shape, made.tempnet.tau_min, made.tempnet.tau_max) == ((256, 32000), 0.01, 2.0)
    tokens = torch.randint(32000, (1, data.context + 1), generator=torch.Generator().manual_seed(0))
    take_two_steps(made, {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]})
    assert isinstance(made.model, Frozen)
    assert {name.partition(".")[0] for name, _ in made.named_parameters()} == {"tempnet"}


@pytest.mark.slow
def test_clip_at_paper_scale_takes_two_steps() -> None:
    for package in ("timm", "transformers"):
        pytest.importorskip(package)
    config = resolved(
        compose(
            [
                "experiment=multimodal/tempnet_paper",
                "model.image.pretrained=false",
                "model.text.weights=null",
                "method.prototypes=8",
                "data.n_train=1000",
                "scheduler.scheduler.default.warmup=1",  # smaller steps do not move what stands before a weight of zero
            ]
        )
    )
    data, made = build(config, Streams(0), {})
    rng = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn(8, *data.in_shape, generator=rng),
        "tokens": torch.randint(data.vocab_size, (8, 1, data.length), generator=rng),
        "lengths": torch.randint(5, data.length, (8, 1), generator=rng),
        "key": torch.arange(8),
        "index": torch.arange(100, 108),
    }
    take_two_steps(made, batch)
    assert made.image_means.seen.nonzero().flatten().tolist() == list(range(100, 108))
    assert isinstance(made, SogCLR)
    assert not isinstance(made, ISogCLR)
