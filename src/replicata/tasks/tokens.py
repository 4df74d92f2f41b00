"""Tokens: predict a token at every place. Concrete: a language model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from replicata.data.loaders import Batch
from replicata.metrics.perplexity import Perplexity
from replicata.optim.groups import decay_groups
from replicata.tasks.base import Task, total

IGNORED = -100  # a target that counts for nothing


class Tokens(Task):
    """Cross-entropy at every place; a method overrides :meth:`objective`.

    Metrics: ``loss`` of all stages; in validation and test ``acc`` and ``ppl``, the exponential of the mean
    cross-entropy, over all places whose target is not -100.

    Args:
        vocab_size: Tokens :math:`V`.
        **task: see :class:`~replicata.tasks.base.Task`; ``model`` maps tokens to logits :math:`(B, T, V)`.

    Shapes:
        - ``batch["tokens"]``, ``batch["targets"]``: :math:`(B, T)`.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"tokens", "targets"})

    def __init__(self, vocab_size: int, **task: Any) -> None:
        super().__init__(**task)
        self.vocab_size = vocab_size
        self.scores = nn.ModuleDict({stage: token_scores(vocab_size) for stage in ("val", "test")})

    # What a method defines -----------------------------------------------------------------

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)

    def objective(self, logits: Tensor, targets: Tensor) -> Tensor | Mapping[str, Tensor]:
        """The loss, or several that are summed, of logits :math:`(n, V)` and targets :math:`(n)`, none ignored."""
        return F.cross_entropy(logits, targets)

    def measures(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What evaluation logs of a batch, means over its places: ``loss``, the cross-entropy, and more if wanted."""
        return {"loss": F.cross_entropy(logits, targets)}

    def parameter_groups(self) -> Iterable[Any]:
        return decay_groups(self)

    # What Lightning calls ------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits, targets = self.predict(batch)
        with torch.autocast(logits.device.type, enabled=False):
            loss, losses = total(self.objective(logits.float(), targets))
        self.meters["train"].update(losses, targets, targets)
        return loss * batch["share"] if "share" in batch else loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate("test", batch)

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits :math:`(n, V)` and targets :math:`(n)` of the places that count."""
        logits, targets = self(batch["tokens"]).flatten(0, 1), batch["targets"].flatten()
        kept = targets != IGNORED
        return (logits, targets) if bool(kept.all()) else (logits[kept], targets[kept])

    def evaluate(self, stage: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """Add a batch to the metrics; what :meth:`predict` gives for it, in full precision."""
        logits, targets = self.predict(batch)
        logits = logits.float()
        losses = self.measures(logits, targets)
        self.meters[stage].update(losses, targets, targets)
        scores = self._scores(stage)
        scores["ppl"].update(losses["loss"], len(targets))
        scores["acc"].update(logits, targets)
        return logits, targets

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_scores("test")

    def _scores(self, stage: str) -> MetricCollection:
        scores = self.scores[stage]
        assert isinstance(scores, MetricCollection)
        return scores

    def _log_scores(self, stage: str) -> None:
        scores = self._scores(stage)
        values = {f"{stage}/{name}": value for name, value in scores.compute().items()}
        self.log_dict(values, sync_dist=False, rank_zero_only=False)
        scores.reset()


def token_scores(vocab_size: int) -> MetricCollection:
    """Perplexity and accuracy of the tokens of a vocabulary."""
    accuracy = MulticlassAccuracy(vocab_size, average="micro", validate_args=False)
    return MetricCollection({"ppl": Perplexity(), "acc": accuracy}, compute_groups=False)
