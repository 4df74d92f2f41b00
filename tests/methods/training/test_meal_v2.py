"""Fidelity checks of MEAL V2: what only the right method satisfies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from replicata.data.vision.pooled import PooledImages
from replicata.methods.training.meal_v2 import MEALV2, Discriminator, gain
from replicata.models.resnet import ResNet
from replicata.run import compose as composing
from replicata.run.check import check
from replicata.run.instantiate import instantiate
from replicata.streams import Streams
from replicata.study.parse import parse
from replicata.study.plan import expand

CLASSES = 10


@dataclass
class Stage:
    """What the runner hands over of a finished stage."""

    network: nn.Module
    record: dict[str, Any] = field(default_factory=lambda: {"metrics": {"test/acc": 0.25}})

    def module(self) -> nn.Module:
        return self.network.eval()


def network(seed: int, width: int = 4) -> nn.Module:
    with Streams(seed).init.as_global():
        return ResNet([1, 8, 8], CLASSES, widths=[width, width, width], shortcut="pad")


def stages() -> dict[str, Stage]:
    return {"pretraining": Stage(network(7)), "a": Stage(network(8, 6)), "b": Stage(network(9, 6))}


def meal(seed: int = 0, **given_: Any) -> MEALV2:
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    with Streams(seed).init.as_global():
        method = MEALV2(
            model=network(1),
            num_classes=CLASSES,
            optimizer=optimizer,
            **({"teachers": ["a", "b"], "disc_reduction": 2, "crop_padding": 1, "flip": True} | given_),
        )
    method.streams, method.stages = Streams(seed), stages()
    return method


def digits() -> PooledImages:
    facts = {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": CLASSES, "root": "", "cache": ""}
    rows = {"train": [0, 128], "val": [900, 1000], "test": [1000, 1100]}
    return PooledImages("digits", rows=rows, batch_size=32, eval_batch_size=64, **facts)


def logits(seed: int, rows: int = 6) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, CLASSES, generator=rng, dtype=torch.float64)


class Fixed(nn.Module):
    """A teacher that says the same whatever it sees."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return self.output


def losses(student: Tensor, *teachers: Tensor, labels: Tensor | None = None, **given_: Any) -> dict[str, Tensor]:
    """The method's losses where student and teachers say what is given."""
    method = meal(teachers=[str(number) for number in range(len(teachers))], **({"disc": "none"} | given_)).double()
    method.teachers.extend(Fixed(teacher) for teacher in teachers)
    labels = torch.zeros(len(student), dtype=torch.long) if labels is None else labels
    return method.objective({"x": torch.zeros(len(student), 1, 8, 8), "y": labels}, student)


# The soft targets ---------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_loss_is_divergence_plus_entropy_with_its_gradient(seed: int) -> None:
    student = logits(seed).requires_grad_()
    teachers = [logits(seed + 1), logits(seed + 2)]
    loss = losses(student, *teachers)["soft"]
    mean = torch.stack([teacher.softmax(1) for teacher in teachers]).mean(0)
    entropy = -(mean * mean.log()).sum(1).mean()
    divergence = F.kl_div(student.log_softmax(1), mean, reduction="batchmean")
    torch.testing.assert_close(loss - entropy, divergence, rtol=0, atol=1e-6)
    torch.testing.assert_close(loss, F.cross_entropy(student, mean), rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, (student.softmax(1) - mean) / len(student), rtol=0, atol=1e-9)


def test_own_teacher_leaves_the_entropy_and_no_gradient() -> None:
    student = logits(0).requires_grad_()
    loss = losses(student, student.detach())["soft"]
    p = student.softmax(1)
    torch.testing.assert_close(loss, -(p * p.log()).sum(1).mean())
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(gradient.abs().max()) < 1e-12


def test_probabilities_are_averaged_not_logits() -> None:
    one, two = torch.tensor([[10.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    student = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    pad = torch.full((1, CLASSES - 2), -1e3)
    wide = [torch.cat([value, pad], 1).double() for value in (student, one, two)]
    loss = losses(*wide)["soft"]
    mean = (one.softmax(1) + two.softmax(1)) / 2
    assert float(loss) == pytest.approx(float(F.cross_entropy(student, mean.double())), abs=1e-7)
    of_logits = ((one + two) / 2).softmax(1)
    assert float((mean - of_logits).abs().max()) > 0.4
    assert float(loss) != pytest.approx(float(F.cross_entropy(student, of_logits.double())), abs=0.05)


def test_sure_teachers_are_labels() -> None:
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    student, sure = logits(3), 1e4 * F.one_hot(labels, CLASSES).double()
    torch.testing.assert_close(losses(student, sure, sure)["soft"], F.cross_entropy(student, labels))


def test_labels_share_the_loss_and_temperature_is_hintons() -> None:
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    student, teacher = logits(4), logits(5)
    parts = losses(student, teacher, labels=labels, hard_weight=0.1, temperature=4.0)
    soft = F.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="batchmean")
    p = (teacher / 4).softmax(1)
    torch.testing.assert_close(parts["hard"], 0.1 * F.cross_entropy(student, labels))
    torch.testing.assert_close(parts["soft"], 0.9 * 16 * (soft - (p * p.log()).sum(1).mean()))
    alone = meal(teachers=[], hard_weight=1.0, disc="none").double()
    assert list(alone.objective({"x": student, "y": labels}, student)) == ["hard"]


# The discriminator --------------------------------------------------------------------------


def test_discriminator_has_the_codes_size_and_is_never_negative() -> None:
    discriminator = Discriminator(1000, 8)
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in discriminator.layers]
    assert sizes == [125125, 1890, 32]
    assert sum(sizes) == 127047
    output = discriminator(torch.randn(50, 1000))
    assert output.shape == (50, 2)
    assert output.min() >= 0
    for layer in discriminator.layers:
        nn.init.constant_(layer.bias, -100.0)
    silent = meal(disc="code")
    silent.discriminator = discriminator
    loss = silent.discrimination(torch.randn(4, 1000), torch.randn(4, 1000))
    assert loss.item() == pytest.approx(math.log(2))


def test_discriminator_loss_is_on_logits_and_names_students_first() -> None:
    method = meal(disc="code").double()
    student, teachers = logits(0), (logits(1), logits(2))
    loss = losses_of(method, student, *teachers)["disc"]
    judged = method.discriminator(torch.cat([student, (teachers[0] + teachers[1]) / 2])).sigmoid()
    truth = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 6, dtype=torch.float64)
    torch.testing.assert_close(loss, F.binary_cross_entropy(judged, truth))


def losses_of(method: MEALV2, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
    method.teachers = nn.ModuleList(Fixed(teacher) for teacher in teachers)
    return method.objective({"x": student, "y": torch.zeros(len(student), dtype=torch.long)}, student)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_the_game_turns_the_students_gradient_round_and_leaves_the_discriminators(seed: int) -> None:
    code, game = meal(disc="code").double(), meal(disc="adversarial").double()
    game.discriminator.load_state_dict(code.discriminator.state_dict())
    gradients = []
    for method in (code, game):
        student = logits(seed).requires_grad_()
        loss = losses_of(method, student, logits(seed + 1), logits(seed + 2))["disc"]
        gradients.append(torch.autograd.grad(loss, [student, *method.discriminator.parameters()]))
    assert torch.equal(gradients[0][0], -gradients[1][0])
    for mine, other in zip(gradients[0][1:], gradients[1][1:], strict=True):
        assert torch.equal(mine, other)


def test_both_groups_are_stepped_by_one_optimizer() -> None:
    method = meal()
    optimizer = method.configure_optimizers()
    student, discriminator = optimizer.param_groups
    assert student["params"] == list(method.model.parameters())
    assert discriminator["params"] == list(method.discriminator.parameters())
    assert student["lr"] == discriminator["lr"]
    assert len(meal(disc="none").configure_optimizers().param_groups) == 1


# Teachers and start -------------------------------------------------------------------------


def test_teachers_see_the_students_crop_and_never_change(fit: Callable[..., Any]) -> None:
    method = meal()
    seen: dict[str, list[Tensor]] = {"student": [], "a": [], "b": []}
    watched = {"student": method.model} | {name: method.stages[name].network for name in "ab"}
    for name, watching in watched.items():
        watching.register_forward_pre_hook(lambda net, given_, name=name: seen[name].append(given_[0]))
    start = {name: value.clone() for name, value in method.stages["pretraining"].network.state_dict().items()}
    before = [{name: value.clone() for name, value in method.stages[key].network.state_dict().items()} for key in "ab"]
    begun: dict[str, Tensor] = {}
    method.on_train_start = lambda: begun.update({k: v.clone() for k, v in method.model.state_dict().items()})
    fit(method, digits(), max_epochs=1)
    assert begun
    assert all(torch.equal(value, start[name]) for name, value in begun.items())
    assert len(seen["a"]) == len(seen["b"]) == 4  # training batches only
    for ours, one, two in zip(seen["student"], seen["a"], seen["b"], strict=False):
        assert one is ours
        assert two is ours
    method.train()
    for teacher, saved in zip(method.teachers, before, strict=True):
        assert not any(part.training for part in teacher.module.modules())
        assert all(torch.equal(value, saved[name]) for name, value in teacher.module.state_dict().items())
    assert not any(name.startswith("teachers") for name in method.state_dict())
    assert not any(name.startswith("teachers") for name, _ in method.named_parameters())


def test_the_test_leaves_the_trained_student_alone(fit: Callable[..., Any]) -> None:
    method, data = meal(), digits()
    trainer = fit(method, data)
    trained = {name: value.clone() for name, value in method.model.state_dict().items()}
    (logged,) = trainer.test(method, datamodule=data, verbose=False)
    assert all(torch.equal(value, trained[name]) for name, value in method.model.state_dict().items())
    assert logged["test/teacher_acc"] == pytest.approx(0.25)
    assert method.panel == {"pretrained": {"test/acc": 0.25}}
    with torch.no_grad():
        output = method.eval().model(data.splits["test"]["x"])
    highest, hit = output.softmax(1).amax(1), output.argmax(1) == data.splits["test"]["y"]
    assert logged["test/acc"] == pytest.approx(float(hit.float().mean()))
    rows = method.tables["confidence"]
    for at, row in enumerate(rows):
        inside = (highest >= at / 20) & (highest < (at + 1) / 20)
        assert row["share"] == pytest.approx(float(inside.float().mean()), abs=1e-6)
        assert (row["acc"] is None) == (not inside.any())
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert gain({"metrics": {"test/acc": 0.75}}, {"metrics": {"test/acc": 0.5}}) == 0.25


def test_without_a_discriminator_the_other_losses_train_alike(fit: Callable[..., Any]) -> None:
    """A discriminator that is silent changes nothing: arms draw the same crops and start alike."""
    one, two = meal(disc="none"), meal(disc="code")
    for layer in two.discriminator.layers:
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, -1.0)
    for method in (one, two):
        fit(method, digits())
    for mine, other in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"temperature": 0.0}, "method.temperature"),
        ({"hard_weight": 1.5}, "method.hard_weight"),
        ({"disc": "gan"}, "method.disc must be"),
        ({"disc_reduction": 8}, "method.disc_reduction=8 leaves nothing of 10 classes"),
        ({"teachers": []}, "method.teachers"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        meal(**wrong)


# The paper's scale --------------------------------------------------------------------------


def test_every_arm_of_the_papers_scale_is_checked() -> None:
    study = parse(composing.compose(["experiment=training/meal_v2_paper"]).study, "training/meal_v2_paper")
    laptop = parse(composing.compose(["experiment=training/meal_v2"]).study, "training/meal_v2")
    assert set(study.arms) == set(laptop.arms)
    for spec in expand(
        study, arms=["meal_v2_strong_teachers", "meal_v2_random_init_long", "kd_single_teacher"], seeds=1
    ):
        check(composing.compose(list(spec.overrides)))


def test_the_papers_recipe() -> None:
    config = composing.compose(["experiment=training/meal_v2_paper"])
    optimizer = instantiate(config.optimizer, "optimizer")([nn.Parameter(torch.zeros(1))])
    scheduler = instantiate(config.scheduler, "scheduler")["scheduler"](optimizer)
    rates = []
    for _ in range(config.trainer.max_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.01] * 100 + [0.001] * 80)
    assert optimizer.defaults["momentum"] == 0.9
    assert optimizer.defaults["weight_decay"] == 0

    crop, mirror, *_ = instantiate(config.data, "data").transform("train").transforms
    assert (config.method.crop_padding, config.method.flip) == (0, False)
    theirs = transforms.RandomResizedCrop(224)
    assert (list(crop.size), list(crop.scale), list(crop.ratio)) == (
        list(theirs.size),
        list(theirs.scale),
        list(theirs.ratio),
    )
    assert mirror.p == transforms.RandomHorizontalFlip().p


@pytest.mark.slow
def test_the_papers_networks_take_two_steps(fit: Callable[..., Any]) -> None:
    pytest.importorskip("timm")
    config = composing.compose(["experiment=training/meal_v2_paper"])
    networks = {
        name: instantiate(stage.model, "model")
        for name, stage in composing.compose(
            ["experiment=training/meal_v2_paper", *(f"stages.{name}.model.pretrained=false" for name in config.stages)]
        ).stages.items()
    }
    method = instantiate(
        config.method,
        "method",
        model=instantiate(config.model, "model"),
        optimizer=instantiate(config.optimizer, "optimizer"),
    )
    method.stages = {name: Stage(net) for name, net in networks.items()}
    assert sum(parameter.numel() for parameter in method.model.parameters()) == 25557032
    before = method.model.conv1.weight.detach().clone()
    batch = {"x": torch.randn(2, 3, 224, 224), "y": torch.tensor([1, 999]), "index": torch.arange(2)}
    method.streams = Streams(0)
    settings_ = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **settings_)
    trainer.fit(method, DataLoader([batch, batch], batch_size=None))
    assert trainer.global_step == 2
    start = networks["pretraining"].conv1.weight
    assert 0 < float((method.model.conv1.weight - start).detach().abs().max()) < float((start - before).abs().max())
