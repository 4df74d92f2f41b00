r"""MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks.

Shen, Savvides, NeurIPS 2020 workshop Beyond BackPropagation. https://arxiv.org/abs/2009.08453
Official code: https://github.com/szq0214/MEAL-V2

Distillation from an ensemble, reduced to its minimum. A student that is trained already goes on learning from nothing
but the mean of the teachers' probabilities, without labels, temperature, weight decay or augmentation beyond crop and
flip, while a small discriminator looks at the outputs. Three observations: a good start is essential, labels are not
needed, and neither is weight decay.

:math:`z_s` are the student's logits, :math:`z_1 \dots z_M` those of :math:`M` frozen teachers on the same crop,
:math:`D` is the discriminator with two outputs a row, :math:`B` and :math:`C` count images and classes.

.. math::
    \bar p &= \tfrac{1}{M} \sum_m \mathrm{softmax}(z_m)                                             \quad (1)\\
    L_{KD} &= -\tfrac{1}{B} \sum_b \sum_c \bar p_{bc} \log \mathrm{softmax}(z_s)_{bc}
        = \mathrm{KL}(\bar p \,\|\, p_s) + H(\bar p)                                                \quad (2)\\
    \bar z &= \tfrac{1}{M} \sum_m z_m \qquad \text{(logits; for (4) alone)}                         \quad (3)\\
    L_D &= \mathrm{BCE}\big(\sigma(D([z_s; \bar z])),\ [\mathbf{1}_B e_1^\top; \mathbf{1}_B e_2^\top]\big)
        \quad \text{mean over } 2B \times 2                                                         \quad (4)\\
    L &= L_{KD} + L_D, \text{ one step of SGD for student and } D                                   \quad (5)

The gradient of (2) by :math:`z_s` is :math:`(p_s - \bar p) / B`. The text describes a game, in which :math:`D`
minimises :math:`L_D` and the student maximises it; the released code has neither reversal nor turns, so that the
student too makes :math:`D`'s task *easier*, and its schedule overwrites the rate that it declares for :math:`D`. Both
are here, ``disc=adversarial`` (by gradient reversal) and ``disc=code``; both train :math:`D` at the student's rate.
:math:`D` ends on a ReLU, as in the code: it can say no less than one half.

What the arms change: where the student starts, the share of labels in the loss, weight decay, the discriminator, the
teachers. Labels alone make it ordinary training; one teacher with a temperature is Hinton's distillation.

Sources of defaults: loss, discriminator with :math:`K = 8` and recipe are the official code's; the figures of the
paper's ablations are not known to us. Departures: ``adversarial`` is our default, since it is the method as stated. The
laptop study has small networks on small images, :math:`K = 2` because :math:`C / K^2` must not vanish, and tunes the
learning rate. Its teachers that know more have seen more images than the student; so have some of the paper's for 380
pixels. The paper's CutMix variant and its students other than ResNets are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.nn.frozen import Frozen
from replicata.nn.gradient_reversal import reverse_gradient
from replicata.nn.losses.distillation import soft_cross_entropy
from replicata.tasks.image_classification import ImageClassification

BINS = 20  # of the confidence histogram


class Discriminator(nn.Module):
    r"""Tells students' from teachers' logits by three linear layers, each followed by a ReLU, the last one too.

    The official 1x1 convolutions on :math:`C \times 1 \times 1` are linear layers on :math:`C`.

    Args:
        num_classes: :math:`C`.
        reduction: :math:`K`; widths are :math:`C`, :math:`\lfloor C / K \rfloor`,
            :math:`\lfloor \lfloor C / K \rfloor / K \rfloor` and 2.

    Shapes:
        - input: :math:`(2B, C)`, output: :math:`(2B, 2)`.
    """

    def __init__(self, num_classes: int, reduction: int) -> None:
        first = num_classes // reduction
        second = first // reduction
        if second < 1:
            raise ValueError(f"method.disc_reduction={reduction} leaves nothing of {num_classes} classes: lower it")
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(num_classes, first), nn.Linear(first, second), nn.Linear(second, 2)])

    def forward(self, logits: Tensor) -> Tensor:
        for layer in self.layers:
            logits = F.relu(layer(logits))
        return logits


class MEALV2(ImageClassification):
    r"""A student that learns from the mean of frozen teachers.

    Metrics beside those of classification: ``train/soft``, ``train/hard`` and ``train/disc``, the parts of the loss
    that the arm has; ``test/teacher_acc``, the mean test accuracy of the single teachers. ``val/loss`` and
    ``test/loss`` are the cross-entropy with the labels.

    Panel: ``pretrained``, the student before its first step. Table ``confidence``: by the student's highest
    probability, in 20 bins, the share of the test images and the accuracy among them.

    Args:
        student: Stage from whose weights the student starts; ``None``: random ones.
        teachers: Stages whose networks teach.
        temperature: :math:`T` of the soft targets and of the loss on them (times :math:`T^2`). MEAL V2: 1.
        hard_weight: Share of the labels in the loss; the soft targets have the rest. MEAL V2: 0.
        disc: ``adversarial``, ``code`` or ``none``: see above.
        disc_reduction: :math:`K` of the discriminator. Paper: 8, at 1000 classes.
        **task: see :class:`~replicata.tasks.image_classification.ImageClassification`.

    Shapes:
        - ``batch["x"]``: :math:`(B, \mathrm{channels}, H, W)`, ``batch["y"]``: :math:`(B)` class ids.
    """

    def __init__(
        self,
        student: str | None = "pretraining",
        teachers: Sequence[str] = (),
        *,
        temperature: float = 1.0,
        hard_weight: float = 0.0,
        disc: Literal["adversarial", "code", "none"] = "adversarial",
        disc_reduction: int = 8,
        **task: Any,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"method.temperature must be above 0, got {temperature}")
        if not 0 <= hard_weight <= 1:
            raise ValueError(f"method.hard_weight must be in [0, 1], got {hard_weight}")
        if disc not in ("adversarial", "code", "none"):
            raise ValueError(f"method.disc must be adversarial, code or none, got {disc!r}")
        if not teachers and (hard_weight < 1 or disc != "none"):
            raise ValueError("method.teachers: without any, hard_weight must be 1 and disc none")
        super().__init__(**task)
        self.student, self.teacher_names = student, list(teachers)
        self.temperature, self.hard_weight, self.disc = temperature, hard_weight, disc
        self.teachers = nn.ModuleList()
        if disc != "none":
            self.discriminator = Discriminator(self.num_classes, disc_reduction)
        self.histogram = torch.zeros(2, BINS)

    def configure_model(self) -> None:
        """Fetch the student's start and the teachers; Lightning asks again before the test."""
        if self.trainer.testing:
            return
        if self.student is not None:
            self.model.load_state_dict(self.stages[self.student].module().state_dict())
        self.teachers.extend(Frozen(self.stages[name].module()) for name in self.teacher_names)

    def parameter_groups(self) -> Iterable[Any]:
        groups = [{"params": list(self.model.parameters())}]
        if self.disc != "none":
            groups.append({"params": list(self.discriminator.parameters())})
        return groups

    # The loss ------------------------------------------------------------------------------

    def objective(self, batch: Batch, output: Tensor) -> Any:
        """Eq. (5) while training; the cross-entropy with the labels in evaluation."""
        if not self.training:
            return super().objective(batch, output)
        losses = {}
        if self.hard_weight > 0:
            losses["hard"] = self.hard_weight * F.cross_entropy(output, batch["y"])
        if self.teacher_names:
            logits = torch.stack([teacher(batch["x"]) for teacher in self.teachers])
            targets = (logits / self.temperature).softmax(-1).mean(0)  # Eq. (1)
            soft = soft_cross_entropy(output, targets, self.temperature)  # Eq. (2)
            losses["soft"] = (1 - self.hard_weight) * soft
            if self.disc != "none":
                losses["disc"] = self.discrimination(output, logits.mean(0))  # Eq. (3)
        return losses

    def discrimination(self, student: Tensor, teachers: Tensor) -> Tensor:
        r"""Eq. (4) on logits :math:`z_s` and :math:`\bar z`, :math:`(B, C)` each."""
        if self.disc == "adversarial":
            student = reverse_gradient(student)
        judged = self.discriminator(torch.cat([student, teachers]))
        truth = torch.zeros_like(judged)
        truth[: len(student), 0] = truth[len(student) :, 1] = 1
        return F.binary_cross_entropy_with_logits(judged, truth)

    # What is measured ----------------------------------------------------------------------

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        output = self.predict_batch(batch)
        self.meters["test"].update({"loss": F.cross_entropy(output, batch["y"])}, output, batch["y"])
        highest, predicted = output.softmax(-1).max(-1)
        bins = (highest * BINS).long().clamp_max(BINS - 1)
        hits = (predicted == batch["y"]).float()
        self.histogram += torch.stack([torch.bincount(bins, weights, BINS) for weights in (None, hits)]).cpu()

    def on_test_start(self) -> None:
        super().on_test_start()
        self.histogram = torch.zeros(2, BINS)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        counts, hits = self.trainer.strategy.reduce(self.histogram.to(self.device), reduce_op="sum").tolist()
        self.record(
            "confidence",
            [
                {"confidence": (at + 0.5) / BINS, "share": count / sum(counts), "acc": right / count if count else None}
                for at, (count, right) in enumerate(zip(counts, hits, strict=True))
            ],
        )
        if self.student is not None:
            self.report("pretrained", {"test/acc": self._accuracy(self.student)})
        if self.teacher_names:
            accuracies = [self._accuracy(name) for name in self.teacher_names]
            self.log("test/teacher_acc", sum(accuracies) / len(accuracies), sync_dist=False)

    def _accuracy(self, stage: str) -> float:
        return float(self.stages[stage].record["metrics"]["test/acc"])


def gain(run: Mapping[str, Any], pretrained: Mapping[str, Any]) -> float:
    """Test accuracy over that of the student before its first step."""
    return run["metrics"]["test/acc"] - pretrained["metrics"]["test/acc"]
