"""Training of the subjects: the dynamic networks that are then compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from replicata.data.loaders import Batch
from replicata.tasks.base import Task, total


class SubjectTraining(Task):
    """What the three have in common: losses by name, and logits against targets.

    Args:
        num_classes: Classes, or tokens of the vocabulary.
        **task: see :class:`~replicata.tasks.base.Task`.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "single"

    def __init__(self, num_classes: int, **task: Any) -> None:
        super().__init__(**task)
        self.num_classes = num_classes

    def losses(self, batch: Batch) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
        """Losses that are summed, logits :math:`(N, C)` and targets :math:`(N)`."""
        raise TypeError(f"{type(self).__name__} does not say what its losses are: implement losses()")

    def metrics(self, stage: str) -> MetricCollection:
        accuracy = MulticlassAccuracy(self.num_classes, average="micro", ignore_index=-100, validate_args=False)
        return MetricCollection({"acc": accuracy})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._score("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score("val", batch)

    def _score(self, stage: str, batch: Batch) -> Tensor:
        losses, logits, targets = self.losses(batch)
        loss, named = total(losses)
        self.meters[stage].update(named, logits, targets)
        return loss


class ImageSubjectTraining(SubjectTraining):
    """A network on images; after every epoch its decisions are calibrated on training images.

    Shapes:
        - ``batch["x"]``: :math:`(B, C, H, W)`, ``batch["y"]``: :math:`(B)` class ids.

    Args:
        calibration: Training images that thresholds or biases are set on, so that no path takes most of the images.
        **subject: see :class:`SubjectTraining`.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"x", "y"})

    def __init__(self, calibration: int = 500, **subject: Any) -> None:
        if calibration < 1:
            raise ValueError(f"method.calibration must be at least 1, got {calibration}")
        super().__init__(**subject)
        self.calibration = calibration

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = data.transform({"x": data.splits["train"]["x"][: self.calibration]})
        self.model.eval()
        self.model.calibrate(rows["x"].to(self.device))  # type: ignore[operator]
        self.model.train()


class ExitTraining(ImageSubjectTraining):
    """Early exits, all trained together with equal weights."""

    def losses(self, batch: Batch) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
        outputs = self.model.outputs(batch["x"])  # type: ignore[operator]
        losses = {f"exit{number}": F.cross_entropy(logits, batch["y"]) for number, logits in enumerate(outputs)}
        return losses, outputs[-1], batch["y"]


class GateTraining(ImageSubjectTraining):
    """Gated blocks, by a straight-through gradient, with a price on the share of blocks that run.

    Args:
        compute_penalty: That price; 0.1 in our studies.
        **subject: see :class:`ImageSubjectTraining`.
    """

    def __init__(self, compute_penalty: float = 0.1, **subject: Any) -> None:
        if compute_penalty < 0:
            raise ValueError(f"method.compute_penalty must be >= 0, got {compute_penalty}")
        super().__init__(**subject)
        self.compute_penalty = compute_penalty

    def losses(self, batch: Batch) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
        logits, decisions = self.model.outputs(batch["x"])  # type: ignore[operator]
        losses = {"ce": F.cross_entropy(logits, batch["y"]), "compute": self.compute_penalty * decisions.mean()}
        return losses, logits, batch["y"]


class Seq2SeqTraining(SubjectTraining):
    """An encoder-decoder that is fed the true tokens.

    Shapes:
        - ``batch["context"]``: :math:`(B, S)`; ``batch["tokens"]``: :math:`(B, T)` decoder inputs;
          ``batch["targets"]``: :math:`(B, T)`, -100 where there is none.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"context", "tokens", "targets"})

    def losses(self, batch: Batch) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
        logits = self.model.teacher(batch["context"], batch["tokens"]).flatten(0, 1)  # type: ignore[operator]
        targets = batch["targets"].flatten()
        return {"nll": F.cross_entropy(logits, targets, ignore_index=-100)}, logits, targets
