"""Links: which pairs of nodes of one graph are linked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection

from replicata.data.loaders import Batch
from replicata.metrics.links import HitsAt, LinkAP, LinkAUC, MeanReciprocalRank
from replicata.nn.propagation import normalised_adjacency
from replicata.tasks.base import Task


class Links(Task):
    """Scores pairs on what the message edges tell; with a :class:`~replicata.models.graph.gae.GAE` a baseline.

    A step encodes the graph once, without the links that the batch asks for, and scores as many links as non-links.

    Shapes:
        - ``batch["x"]``: :math:`(N, F)` features, dense or sparse CSR.
        - ``batch["graph"]``: :math:`(2, E)` message edges, both directions of each.
        - ``batch["pos"], batch["neg"]``: :math:`(B, 2)` linked and unlinked pairs.

    Args:
        k: The K of ``hits@K``.
        remove_targets: Whether a training batch's links are taken out of the graph it is encoded from. Otherwise
            the encoder sees in training what it never sees in the test: the link it is asked for.
        encoder_lr: Learning rate of ``model``, or of its encoder if it has one; ``None``: the optimizer's own.
        chunk: Pairs scored at once in validation and test.
        **task: see :class:`~replicata.tasks.base.Task`.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "single"
    inputs: ClassVar[frozenset[str]] = frozenset({"x", "graph", "pos", "neg"})

    def __init__(
        self,
        k: int = 100,
        remove_targets: bool = True,
        encoder_lr: float | None = None,
        chunk: int = 4096,
        **task: Any,
    ) -> None:
        for name, value in (("k", k), ("chunk", chunk)):
            if value < 1:
                raise ValueError(f"method.{name} must be at least 1, got {value}")
        super().__init__(**task)
        self.k, self.remove_targets, self.encoder_lr, self.chunk = k, remove_targets, encoder_lr, chunk

    # What a method defines -----------------------------------------------------------------

    def encode(self, graph: Batch) -> Any:
        """What :meth:`score` needs to know of the graph: node vectors, or more than that."""
        model: Any = self.model
        return model.encode(graph["x"], adjacency(graph))

    def score(self, encoded: Any, pairs: Tensor) -> Tensor:
        """Logits :math:`(B)` of pairs :math:`(B, 2)`."""
        logits: Tensor = self.model(encoded, pairs)
        return logits

    def mask_targets(self, graph: Batch, pos: Tensor) -> Batch:
        """The graph without the given links, in both directions."""
        return graph | {"graph": without(graph["graph"], pos)}

    def objective(self, pos: Tensor, neg: Tensor) -> Tensor:
        """Logistic loss, in equal shares of links and non-links."""
        return -F.logsigmoid(pos).mean() - F.logsigmoid(-neg).mean()

    def metrics(self, stage: str) -> MetricCollection:
        return MetricCollection({} if stage == "train" else link_metrics(self.k))

    def parameter_groups(self) -> Iterable[Any]:
        if self.encoder_lr is None:
            return self.parameters()
        encoder = list(getattr(self.model, "encoder", self.model).parameters())
        known = {id(parameter) for parameter in encoder}
        others = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return [{"params": encoder, "lr": self.encoder_lr}, {"params": others}]

    # What Lightning calls ------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        graph = self.mask_targets(batch, batch["pos"]) if self.remove_targets else batch
        scores = self.score(self.encode(graph), torch.cat([batch["pos"], batch["neg"]]))
        return self._account("train", batch, scores)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> Tensor:
        encoded = self.encode(batch)
        pairs = torch.cat([batch["pos"], batch["neg"]])
        return self._account(stage, batch, torch.cat([self.score(encoded, part) for part in pairs.split(self.chunk)]))

    def _account(self, stage: str, batch: Batch, scores: Tensor) -> Tensor:
        links = len(batch["pos"])
        loss = self.objective(scores[:links], scores[links:])
        self.meters[stage].update({"loss": loss}, scores, labels(batch))
        return loss


def link_metrics(k: int) -> dict[str, Any]:
    """The scores of a ranking of links, by name."""
    return {f"hits@{k}": HitsAt(k), "mrr": MeanReciprocalRank(), "auc": LinkAUC(), "ap": LinkAP()}


def labels(batch: Batch) -> Tensor:
    """1 for each of ``pos`` and 0 for each of ``neg``, in this order."""
    return torch.cat([torch.full((len(batch[name]),), int(name == "pos")) for name in ("pos", "neg")]).to(
        batch["pos"].device
    )


def adjacency(graph: Batch) -> Tensor:
    """The symmetrically normalised adjacency matrix with self-loops, sparse CSR."""
    return normalised_adjacency(graph["graph"], graph["x"].shape[0])


def without(edges: Tensor, pairs: Tensor) -> Tensor:
    """Edges :math:`(2, E)` less the pairs :math:`(B, 2)` and their reverse."""
    size = int(torch.maximum(edges.max(), pairs.max())) + 1 if edges.numel() and pairs.numel() else 1
    keys = edges[0] * size + edges[1]
    gone = torch.cat([pairs[:, 0] * size + pairs[:, 1], pairs[:, 1] * size + pairs[:, 0]])
    return edges[:, ~torch.isin(keys, gone)]
