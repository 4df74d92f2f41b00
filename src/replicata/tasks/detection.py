"""Detection: boxes and classes of the things in an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.metrics.cost import count_parameters
from replicata.metrics.detection import CocoAP
from replicata.models.detection.detector import Dense, Detector
from replicata.nn.suppression import Detections, Suppression
from replicata.tasks.base import Task, total


class Detection(Task):
    """A one-stage detector.

    Logged are the losses, in evaluation ``ap``, ``ap50`` and ``ap75`` by COCO's rules, and ``cost/params``. The table
    ``precision`` repeats the test's three. Losses are divided by the positive places of the whole batch, over all
    processes, so that it does not matter to how many of them a batch is dealt out.

    Args:
        score, nms, most, candidates: How detections are chosen from predictions, see
            :class:`~replicata.nn.suppression.Suppression`.
        **task: see :class:`~replicata.tasks.base.Task`; ``model`` is a
            :class:`~replicata.models.detection.detector.Detector`.

    Shapes:
        - ``batch["x"]``: :math:`(B, C, H, W)`; ``batch["boxes"]``: :math:`(B, M, 4)` corners in pixels;
          ``batch["labels"]``: :math:`(B, M)`, -1 where there is no box. Optional: ``batch["size"]``: :math:`(B, 2)`,
          height and width of the images where they are padded; ``batch["crowd"]``: :math:`(B, M)`, boxes of many
          things, which evaluation neither asks for nor counts against a detector; for training they are no boxes.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"x", "boxes", "labels"})
    model: Detector

    def __init__(
        self, score: float = 0.05, nms: float = 0.5, most: int = 100, candidates: int = 1000, **task: Any
    ) -> None:
        if not 0 <= score < 1 or not 0 < nms <= 1 or most < 1 or candidates < 1:
            raise ValueError(
                "method: 0 <= score < 1, 0 < nms <= 1, most >= 1 and candidates >= 1 must hold,"
                f" got {score}, {nms}, {most} and {candidates}"
            )
        super().__init__(**task)
        self.suppression = Suppression(score, nms, most, candidates)
        self.precision = {stage: CocoAP() for stage in ("val", "test")}

    # What a method defines -----------------------------------------------------------------

    def forward(self, x: Tensor) -> Any:
        """Predictions; a method may return more than the host's, if it overrides what takes them."""
        return self.model(x)

    def dense(self, output: Any) -> Dense:
        """The host's part of what :meth:`forward` returns."""
        return output

    def objective(self, batch: Batch, output: Any) -> Mapping[str, Tensor]:
        """Losses by name; they are summed, and each is logged."""
        sums, positives = self.model.losses(self.dense(output), batch["boxes"], batch["labels"])
        return self.per_positive(batch, sums, positives)

    # Losses and detections -----------------------------------------------------------------

    def per_positive(self, batch: Batch, sums: Mapping[str, Tensor], positives: Tensor) -> dict[str, Tensor]:
        """Sums over a batch, divided by its positives: while training, by the mean of the processes' positives.

        Then the mean of the processes' gradients is the gradient of the whole batch.
        """
        if self.training and dist.is_available() and dist.is_initialized():
            # A process that had no rows left was given one that does not count.
            counts = (batch["share"] > 0).to(positives) if "share" in batch else torch.ones_like(positives)
            positives = positives * counts
            dist.all_reduce(positives)
            positives = positives / dist.get_world_size()
            sums = {name: value * counts for name, value in sums.items()}
        return {name: value / positives.clamp(min=1) for name, value in sums.items()}

    def detect(self, batch: Batch, output: Any) -> list[Detections]:
        """Detections of each image."""
        dense = self.dense(output)
        height, width = batch["x"].shape[2:]
        sizes = [(height, width)] * len(batch["x"])
        if "size" in batch:
            sizes = [(int(height), int(width)) for height, width in batch["size"]]
        return self.suppression(self.model.scores(dense), self.model.boxes(dense), self.model.places(dense), sizes)

    # What Lightning calls ------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, losses = total(self.objective(batch, self(batch["x"])))
        self.meters["train"].update(losses, batch["index"], batch["index"])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        if not len(batch["x"]):
            return
        output = self(batch["x"])
        _, losses = total(self.objective(batch, output))
        self.meters[stage].update(losses, batch["index"], batch["index"])
        self.precision[stage].update(self.detect(batch, output), truth(batch))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_precision("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        values = self._log_precision("test")
        self.log("cost/params", float(count_parameters(self)), sync_dist=False)
        self.record("precision", [{"measure": name.upper(), "value": value} for name, value in values.items()])

    def _log_precision(self, stage: str) -> dict[str, float]:
        values = self.precision[stage].compute()
        self.precision[stage].reset()
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, sync_dist=False)
        return values


def truth(batch: Batch) -> list[dict[str, Tensor]]:
    """The true boxes of each image of a batch, without padding."""
    images = []
    for row, labels in enumerate(batch["labels"]):
        present = labels >= 0
        image = {"boxes": batch["boxes"][row][present], "labels": labels[present]}
        if "crowd" in batch:
            image["iscrowd"] = batch["crowd"][row][present].long()
        images.append(image)
    return images
