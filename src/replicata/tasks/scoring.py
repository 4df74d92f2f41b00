"""Scoring: how likely each example is to be a click, a purchase, a relevant document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC

from replicata.data.loaders import Batch
from replicata.metrics.gauc import GroupAUC
from replicata.nn.losses.ranking import pairwise_logistic
from replicata.tasks.base import Task, total


class Scoring(Task):
    """Binary labels, one score an example; ``model(batch)`` gives the logits.

    Logged are ``auc`` and ``loss`` of all stages and, in evaluation of data with groups (users, queries), ``gauc``:
    AUC within groups, weighted by their size. ``train/auc`` is over the epoch, while the weights change.

    Args:
        loss: ``pointwise`` (logistic) or ``pairwise`` (logistic on differences of scores within groups).
        **task: see :class:`~replicata.tasks.base.Task`.

    Shapes:
        - ``batch["y"]``: :math:`(B)`, 0 or 1; optional ``batch["group"]``: :math:`(B)`. What else there is, is between
          data and model: ``fields`` :math:`(B, F)` with ``values``, or ``history`` :math:`(B, T, F)`, ``history_mask``
          :math:`(B, T)` and ``candidate`` :math:`(B, F)`.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"y"})

    def __init__(self, loss: Literal["pointwise", "pairwise"] = "pointwise", **task: Any) -> None:
        if loss not in ("pointwise", "pairwise"):
            raise ValueError(f"method.loss must be pointwise or pairwise, got {loss!r}")
        super().__init__(**task)
        self.loss = loss
        self.group_auc = nn.ModuleDict({stage: GroupAUC() for stage in ("val", "test")})

    # What a method defines -----------------------------------------------------------------

    def score(self, batch: Batch) -> Tensor:
        """Logits :math:`(B)`."""
        return self.model(batch)

    def objective(self, batch: Batch, scores: Tensor) -> Tensor | Mapping[str, Tensor]:
        """The loss, or several that are summed; each is logged by its name."""
        if self.loss == "pairwise":
            return pairwise_logistic(scores, batch["y"], batch.get("group"))
        return F.binary_cross_entropy_with_logits(scores, batch["y"].to(scores.dtype))

    def regulariser(self, batch: Batch) -> Tensor | None:
        """What training adds to the loss; logged as ``train/regulariser``."""
        return None

    def metrics(self, stage: str) -> MetricCollection:
        return MetricCollection({"auc": BinaryAUROC(validate_args=False)})

    # What Lightning calls ------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        scores = self.score(batch)
        loss, losses = total(self.objective(batch, scores))
        penalty = self.regulariser(batch)
        if penalty is not None:
            loss = loss + penalty
            losses = losses | {"loss": loss, "regulariser": penalty}
        # torchmetrics would take scores that happen to lie in [0, 1] for probabilities.
        self.meters["train"].update(losses, scores.sigmoid(), batch["y"])
        return loss * batch["share"] if "share" in batch else loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        scores = self.score(batch)
        _, losses = total(self.objective(batch, scores))
        self.meters[stage].update(losses, scores.sigmoid(), batch["y"])
        if "group" in batch:
            self._group_auc(stage).update(scores, batch["y"], batch["group"])

    def on_validation_epoch_end(self) -> None:
        self._log_group_auc("val")
        super().on_validation_epoch_end()

    def on_test_epoch_end(self) -> None:
        self._log_group_auc("test")
        super().on_test_epoch_end()

    def _log_group_auc(self, stage: str) -> None:
        metric = self._group_auc(stage)
        if metric.scores:
            self.log(f"{stage}/gauc", metric.compute(), sync_dist=False, rank_zero_only=False)
            metric.reset()

    def _group_auc(self, stage: str) -> GroupAUC:
        metric = self.group_auc[stage]
        assert isinstance(metric, GroupAUC)
        return metric
