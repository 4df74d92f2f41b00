"""Supervised learning: predict ``y`` from ``x``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanSquaredError

from replicata.data.loaders import Batch
from replicata.tasks.base import Task, total


class Supervised(Task):
    """Base of supervised methods; a method overrides what its paper changes.

    Shapes:
        - ``batch["x"]``: :math:`(B, *)`; ``batch["y"]``: :math:`(B)` class ids or :math:`(B, *)` targets;
          ``batch["index"]``: :math:`(B)`.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"x", "y"})

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def augment(self, batch: Batch) -> Batch:
        """Changes a training batch; evaluation sees batches as they are."""
        return batch

    def predict_batch(self, batch: Batch) -> Tensor:
        """The output for a batch; methods whose network takes more than ``x`` override it."""
        return self(batch["x"])

    def objective(self, batch: Batch, output: Tensor) -> Tensor | Mapping[str, Tensor]:
        """The loss, or several that are summed; each is logged by its name."""
        raise TypeError(f"{type(self).__name__} has no objective: use Classification or Regression, or define it")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batch = self.augment(batch)
        output = self.predict_batch(batch)
        loss, losses = total(self.objective(batch, output))
        self.meters["train"].update(losses, output, batch["y"])
        return loss * batch["share"] if "share" in batch else loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        output = self.predict_batch(batch)
        _, losses = total(self.objective(batch, output))
        self.meters[stage].update(losses, output, batch["y"])


class Classification(Supervised):
    """Cross-entropy and accuracy over ``num_classes`` classes.

    Args:
        num_classes: Number of classes :math:`C`; the output is :math:`(B, C)` logits.
        label_smoothing: Share of the target spread over all classes.
        **task: see :class:`~replicata.tasks.base.Task`.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, **task: Any) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"method.label_smoothing must be in [0, 1), got {label_smoothing}")
        super().__init__(**task)
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

    def objective(self, batch: Batch, output: Tensor) -> Tensor | Mapping[str, Tensor]:
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(output, batch["y"], label_smoothing=smoothing)

    def metrics(self, stage: str) -> MetricCollection:
        return MetricCollection({"acc": MulticlassAccuracy(self.num_classes, average="micro", validate_args=False)})


class Regression(Supervised):
    """Mean squared error; output and ``y`` have one shape."""

    def objective(self, batch: Batch, output: Tensor) -> Tensor | Mapping[str, Tensor]:
        return F.mse_loss(output, batch["y"])

    def metrics(self, stage: str) -> MetricCollection:
        return MetricCollection({"mse": MeanSquaredError()})
