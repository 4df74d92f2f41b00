"""LinkHeuristic: a rule that scores pairs of nodes and has nothing to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torchmetrics import MetricCollection

from replicata.nn.neighbours import Neighbours
from replicata.tasks.links import labels, link_metrics
from replicata.tasks.procedure import Procedure


class LinkHeuristic(Procedure):
    """Scores the validation and the test pairs on the message edges.

    Args:
        k: The K of ``hits@K``.
        **task: see :class:`~replicata.tasks.base.Task`; ``model(neighbours, pairs)`` gives scores :math:`(B)`. A
            ``ModuleDict`` of such models is a panel: each is reported under its name.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"x", "graph", "pos", "neg"})

    def __init__(self, k: int = 100, **task: Any) -> None:
        if k < 1:
            raise ValueError(f"method.k must be at least 1, got {k}")
        super().__init__(**task)
        self.k = k

    def rank(self, model: nn.Module) -> dict[str, float]:
        """Metrics of one scorer on both held-out splits."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        metrics: dict[str, float] = {}
        for stage in ("val", "test"):
            batch = data.pairs(stage)
            neighbours = Neighbours(batch["graph"], batch["x"].shape[0])
            scores = model(neighbours, torch.cat([batch["pos"], batch["neg"]]))
            values = MetricCollection(link_metrics(self.k))(scores, labels(batch))
            metrics |= {f"{stage}/{name}": float(value) for name, value in values.items()}
        return metrics

    def work(self, item: int) -> Mapping[str, float]:
        if not isinstance(self.model, nn.ModuleDict):
            return self.rank(self.model)
        for name, model in self.model.items():
            self.report(name, self.rank(model))
        return {}
