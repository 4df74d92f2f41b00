"""Nodes: transductive classification of the nodes of one graph, full batch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from replicata.data.loaders import Batch
from replicata.metrics.smoothness import smoothness
from replicata.nn.propagation import normalised_adjacency
from replicata.tasks.base import Task


class Nodes(Task):
    """One step is one epoch on the whole graph; the validation nodes are scored in the same step.

    ``val/*`` of an epoch belong to the weights after its step. The test scores the validation nodes
    once more, so that a run's ``val/*`` and ``test/*`` belong to the same weights.

    Shapes:
        - ``batch["x"]``: :math:`(N, F)` features, dense or sparse CSR.
        - ``batch["edges"]``: :math:`(2, E)` node numbers.
        - ``batch["y"]``: :math:`(N)`; ``batch["train"], ["val"], ["test"]``: node numbers of the splits.

    Args:
        num_classes: Number of classes :math:`C`; ``model(x, adj)`` gives :math:`(N, C)` logits, with
            ``adj`` the symmetrically normalised adjacency in sparse CSR.
        smoothness: Whether the test reports ``test/smv``, the smoothness of the logits over all pairs
            of nodes, and adds a row to the table ``depth``.
        **task: see :class:`~replicata.tasks.base.Task`.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "single"
    inputs: ClassVar[frozenset[str]] = frozenset({"x", "edges", "y", "train", "val", "test"})

    def __init__(self, num_classes: int, smoothness: bool = False, **task: Any) -> None:
        super().__init__(**task)
        self.num_classes = num_classes
        self.smoothness = smoothness
        self._edges: Tensor | None = None
        self._computed: Batch = {}

    # What a method defines -----------------------------------------------------------------

    def precompute(self, batch: Batch) -> Batch:
        """What is computed from the graph once for all steps, by name."""
        return {"adj": normalised_adjacency(batch["edges"], len(batch["y"]))}

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch["x"], batch["adj"])

    def objective(self, batch: Batch, logits: Tensor, split: str) -> Tensor:
        nodes = batch[split]
        return F.cross_entropy(logits[nodes], batch["y"][nodes])

    def metrics(self, stage: str) -> MetricCollection:
        return MetricCollection({"acc": MulticlassAccuracy(self.num_classes, average="micro", validate_args=False)})

    def network(self) -> tuple[str, int]:
        """Name and propagation depth of what is trained, for the table ``depth``."""
        depth = self.model.depth
        assert isinstance(depth, int)
        return type(self.model).__name__, depth

    # What Lightning calls ------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        graph = self.graph(batch)
        logits = self(graph)
        loss = self.objective(graph, logits, "train")
        self._score("train", graph, logits, loss)
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Score the validation nodes with the weights of this epoch, without the overhead of a loop."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        graph = self.graph(batch)
        self.eval()
        logits = self(graph)
        self._score("val", graph, logits, self.objective(graph, logits, "val"))
        self.train()

    def on_train_epoch_end(self) -> None:
        self._log_meter("val")
        super().on_train_epoch_end()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        graph = self.graph(batch)
        logits = self(graph)
        for split in ("val", "test"):
            self._score(split, graph, logits, self.objective(graph, logits, split))
        if self.smoothness:
            smv = smoothness(logits).mean()
            nodes = graph["test"]
            acc = (logits[nodes].argmax(1) == graph["y"][nodes]).float().mean()
            name, depth = self.network()
            self.record("depth", [{"network": name, "depth": depth, "acc": float(acc), "smv": float(smv)}])
            self.log("test/smv", smv, batch_size=1)

    def on_test_epoch_end(self) -> None:
        self._log_meter("val")
        super().on_test_epoch_end()

    def graph(self, batch: Batch) -> Batch:
        """The batch with what :meth:`precompute` adds to it."""
        if self._edges is not batch["edges"]:
            with torch.inference_mode(False):  # training may use it after a test has
                self._computed = self.precompute(batch)
            self._edges = batch["edges"]
        return batch | self._computed

    def _score(self, split: str, graph: Batch, logits: Tensor, loss: Tensor) -> None:
        nodes = graph[split]
        self.meters[split].update({"loss": loss}, logits[nodes], graph["y"][nodes])
