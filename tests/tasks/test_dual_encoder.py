"""Contrastive learning of two towers: CLIP, CyCLIP, SogCLR and iSogCLR."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.data.vision.fashion_scenes import FashionScenes
from replicata.errors import UserError
from replicata.models.clip import CLIP
from replicata.models.rnn_classifier import RNNClassifier
from replicata.models.strided_cnn import StridedCNN
from replicata.nn.losses.contrastive import clip_loss, cyclic_losses
from replicata.streams import Streams
from replicata.tasks.cyclip import CyCLIP
from replicata.tasks.dual_encoder import DualEncoder
from replicata.tasks.sogclr import ISogCLR, SogCLR


def towers() -> CLIP:
    text = RNNClassifier(42, 8, embedding=8, cell="gru", hidden=8)
    return CLIP(StridedCNN([3, 32, 32], 8, [4, 8, 8]), text, width=8)


def method(kind: type[DualEncoder] = DualEncoder, **changes: Any) -> Any:
    with Streams(0).init.as_global():
        made = kind(model=towers(), optimizer=partial(torch.optim.AdamW, lr=3e-3), **changes)
    made.streams = Streams(0)
    return made


def scenes() -> FashionScenes:
    facts = {"in_shape": [3, 32, 32], "vocab_size": 42, "num_concepts": 48, "num_keys": 4512}
    sizes = {"n_train": 50, "n_val": 20, "n_test": 20, "n_single": 30, "batch_size": 16}
    return FashionScenes("digits", root="", cache="", skew=1.0, **facts, **sizes)  # type: ignore[arg-type]


def vectors(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(size, 4, generator=rng).double(), dim=1) for _ in range(2))
    return image.requires_grad_(), text.requires_grad_()


def double(made: Any) -> Any:
    """Memory in double precision, so that gradients can be compared closely."""
    return made.double()


def others(rows: Tensor) -> Tensor:
    """Each row less its diagonal entry: :math:`(B, B - 1)`."""
    size = len(rows)
    return rows[~torch.eye(size, dtype=torch.bool)].reshape(size, size - 1)


# CLIP and CyCLIP ----------------------------------------------------------------------------


def test_the_objective_is_clips() -> None:
    image, text = vectors(6)
    torch.testing.assert_close(method(tau=0.2).objective({}, image, text), clip_loss(image @ text.t(), 0.2))
    inside, across = cyclic_losses(image, text)
    losses = method(CyCLIP, tau=0.2, in_modal=0.5, cross_modal=0.1).objective({}, image, text)
    torch.testing.assert_close(losses["in_modal"], 0.5 * inside)
    torch.testing.assert_close(losses["cross_modal"], 0.1 * across)
    with pytest.raises(ValueError, match=r"method\.in_modal and cross_modal"):
        method(CyCLIP, in_modal=-1.0)


def test_a_learned_temperature_learns_within_its_range(fit: Callable[..., Any]) -> None:
    made = method(tau=0.1, learn_tau=True)
    trainer = fit(made, scenes(), max_epochs=2)
    assert 0.001 <= float(made.tau.detach()) <= 0.5
    assert float(made.tau.detach()) != pytest.approx(0.1, abs=1e-6)
    assert 0.001 <= float(trainer.callback_metrics["train/tau"]) <= 0.5
    fixed = method(tau=0.1)
    assert "tau" not in dict(fixed.named_parameters())
    for tau, learned, message in ((0.0, False, "above 0"), (0.7, True, "if it is learned")):
        with pytest.raises(ValueError, match=rf"method\.tau must be .*{message}"):
            method(tau=tau, learn_tau=learned)


def test_it_learns_to_retrieve_and_classifies_by_prompts(fit: Callable[..., Any]) -> None:
    made, data = method(tau=0.1), scenes()
    trainer = fit(made, data, max_epochs=12)
    (found,) = trainer.test(made, datamodule=data, verbose=False)
    assert {"test/r@1_i2t", "test/r@1_t2i", "test/mean_r@1", "test/mean_r@10", "test/zeroshot_acc"} <= set(found)
    made.eval()
    batch = data.transform(dict(data.splits["train"]))
    with torch.no_grad():
        image, text = made.model(batch["image"], batch["tokens"][:, 0], batch["lengths"][:, 0])
    ranks = 1 + (image @ text.t() > (image * text).sum(1, keepdim=True)).sum(1)
    assert float(ranks.float().mean()) < 13  # chance: 25.5
    single = data.zero_shot
    with torch.no_grad():
        nearest = (
            made.model.encode_image(single["image"]) @ made.model.encode_text(single["prompts"], single["lengths"]).t()
        )
    assert found["test/zeroshot_acc"] == pytest.approx(float((nearest.argmax(1) == single["y"]).float().mean()))


def test_a_process_without_rows_counts_for_nothing() -> None:
    made = method()
    made.setup("fit")
    data = scenes()
    data.streams = Streams(0)
    data.setup()
    batch = data.transform({name: column[:1] for name, column in data.splits["train"].items()})
    batch |= {"index": torch.zeros(1, dtype=torch.long), "share": torch.tensor(0.0)}
    seen: list[int] = []

    def objective(batch: Any, image: Tensor, text: Tensor) -> Tensor:
        seen.append(len(image))
        return image.sum() + text.sum()

    made.objective = objective
    made.training_step(batch, 0)
    made.training_step(batch | {"share": torch.tensor(0.5)}, 0)
    assert seen == [0, 1]


# SogCLR -------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.floats(0.05, 1.0))
@settings(max_examples=15, deadline=None)
def test_without_memory_sogclr_has_the_gradient_of_logsumexp_over_negatives(seed: int, tau: float) -> None:
    image, text = vectors(7, seed)
    made = double(method(SogCLR, examples=7, tau=tau, gamma=1.0))
    losses = made.objective({"index": torch.arange(7)}, image, text)
    ours = torch.autograd.grad(sum(losses.values()), (image, text))
    similarity = image @ text.t()
    sides = [
        (tau * (others(rows - rows.diagonal()[:, None]) / tau).logsumexp(1)).mean()
        for rows in (similarity, similarity.t())
    ]
    for one, other in zip(ours, torch.autograd.grad(sum(sides[1:], sides[0]), (image, text)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_memory_is_of_the_examples_not_of_the_batch() -> None:
    """Batches in another order leave each example with the average of its own negatives."""
    image, text = vectors(6)
    one, other = (double(method(SogCLR, examples=6, tau=0.5, gamma=0.7)) for _ in range(2))
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    for _ in range(2):
        one.objective({"index": torch.arange(6)}, image, text)
        other.objective({"index": order}, image[order], text[order])
    for means in ("image_means", "text_means"):
        torch.testing.assert_close(getattr(one, means).mean, getattr(other, means).mean)


def test_a_wrong_number_of_examples_is_named(fit: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"method.examples=49, but there are 50 pairs"):
        fit(method(SogCLR, examples=49), scenes())


# iSogCLR ------------------------------------------------------------------------------------


def test_the_slope_is_that_of_the_whole_objective() -> None:
    """32 pairs in one batch, no memory: autograd of the full-batch objective by every temperature."""
    image, text = vectors(32)
    rho, index = 1.7, torch.arange(32)
    made = double(method(ISogCLR, examples=32, rho=rho, gamma=1.0))
    tau = (0.05 + torch.rand(32, generator=torch.Generator().manual_seed(1)).double()).requires_grad_()
    for side, rows in (("image", image @ text.t()), ("text", text @ image.t())):
        differences = (rows - rows.diagonal()[:, None]).detach()
        means = (others(differences) / tau[:, None]).logsumexp(1) - torch.tensor(31.0).double().log()
        (expected,) = torch.autograd.grad((tau * means + tau * rho).sum(), tau)
        _, slope = made.estimate(side, differences, tau.detach(), index)
        torch.testing.assert_close(slope + rho, expected, rtol=1e-5, atol=1e-5)


# What SogCLR_Loss and iSogCLR_Loss of the code of the authors of TempNet give in each of four batches:
# the loss and its gradient on images and texts, along waves.
ORDERS = ((3, 8, 0, 11, 5, 6), (1, 9, 4, 10, 2, 7), (7, 0, 2, 5, 9, 11), (6, 3, 10, 1, 8, 4))  # two epochs
FIRST = [(0.07009, 0.15114, 0.26804), (1.5652, -0.74583, 0.6596)]
SOGCLR = [*FIRST, (0.38218, -0.04845, -0.03595), (0.14557, -0.08719, 0.002)]
ISOGCLR = [*FIRST, (0.39295, -0.05349, -0.05993), (0.1481, -0.08663, 0.00216)]


def waves(step: float, *shape: int) -> Tensor:
    """Numbers that any program can make again."""
    return torch.sin(step * torch.arange(1, shape[0] * shape[1] + 1, dtype=torch.float64)).reshape(shape).float()


def two_epochs(made: SogCLR) -> list[tuple[float, ...]]:
    found = []
    for step, order in enumerate(ORDERS):
        image = F.normalize(waves(1.7 + step, 6, 8), dim=1).requires_grad_()
        text = F.normalize(0.3 * image.detach() + waves(2.3 + step, 6, 8), dim=1).requires_grad_()
        loss = sum(made.objective({"index": torch.tensor(order)}, image, text).values(), torch.zeros(()))
        slopes = torch.autograd.grad(loss, (image, text))
        found.append((float(loss.detach()), *(float((slope * waves(3.1, 6, 8)).sum()) for slope in slopes)))
    return found


def test_two_epochs_have_the_numbers_of_the_authors_code() -> None:
    for ours, theirs in zip(two_epochs(method(SogCLR, examples=12, tau=0.1)), SOGCLR, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=2e-5)
    made = method(ISogCLR, examples=12, rho=1.2, tau_max=0.2, tau_init=0.1)
    for ours, theirs in zip(two_epochs(made), ISOGCLR, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=2e-5)
    rows = [0, 3, 7, 11]
    assert made.image_tau[rows].tolist() == pytest.approx([0.09065, 0.0683, 0.02672, 0.07695], abs=2e-5)
    assert made.text_tau[rows].tolist() == pytest.approx([0.10646, 0.05791, 0.02729, 0.09907], abs=2e-5)


def test_temperatures_follow_the_slope_by_momentum() -> None:
    limits = {"tau_min": 0.1, "tau_max": 0.4, "tau_init": 0.2, "step": 0.03, "momentum": 0.5}
    made = method(ISogCLR, examples=5, rho=2.0, **limits)
    index, slope = torch.tensor([3, 1]), torch.tensor([40.0, -3.0])
    for clipped in ((2.5, -0.5), (3.75, -0.75)):
        made.learn("image", made.temperatures("image", torch.zeros(2, 4), index), slope, index)
        torch.testing.assert_close(made.image_slope[index], torch.tensor(clipped))
    expected = torch.tensor([0.2, 0.2 + 0.03 * (0.5 + 0.75), 0.2, 0.1, 0.2])
    torch.testing.assert_close(made.image_tau, expected)
    assert (made.text_tau == 0.2).all()
    with pytest.raises(ValueError, match="tau_min <= tau_init <= tau_max"):
        method(ISogCLR, examples=5, rho=2.0, tau_init=0.2)


def test_the_table_is_measured(fit: Callable[..., Any]) -> None:
    made, data = method(ISogCLR, examples=50, rho=1.5, tau_min=0.01, tau_max=0.2), scenes()
    trainer = fit(made, data, max_epochs=2)
    (found,) = trainer.test(made, datamodule=data, verbose=False)
    assert found["test/table_tau"] == pytest.approx(float((made.image_tau.mean() + made.text_tau.mean()) / 2), rel=1e-5)
    assert -1 <= found["test/table_tau_frequency"] <= 1
    assert found["test/table_tau_std"] > 0
