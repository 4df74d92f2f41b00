"""BackdooredText: a text classifier with a backdoor, or its clean twin."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.data.module import Split
from replicata.data.text.poison import with_trigger
from replicata.tasks.supervised import Classification


class BackdooredText(Classification):
    """Classification of texts whose training data may be poisoned, until the classifier is good enough to be of use.

    It stops after the first epoch, from ``min_epochs`` on, at which its validation split accepts it. The data module
    knows the attack (``trigger``, ``source``, ``target``, ``poison_rate``) and the ``vocabulary``, as
    :class:`~replicata.data.text.reviews.Reviews` does.

    Metrics beside those of classification: ``val/asr`` and ``test/asr``, the share of texts of the source class that
    are taken for the target class with the trigger in them; ``test/accepted``, whether validation accepts the
    classifier; ``test/poisoned``. Tables ``trigger`` and ``vocabulary``: tokens and words.

    Args:
        min_epochs: Epochs before it may stop.
        min_acc: Least accuracy on clean texts.
        min_asr: Least attack success rate, where the data are poisoned.
        **classification: see :class:`~replicata.tasks.supervised.Classification`.

    Shapes:
        - ``batch["x"]``: :math:`(B, L)` tokens, ``batch["lengths"]``: :math:`(B)`, ``batch["y"]``: :math:`(B)`.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "single"
    inputs: ClassVar[frozenset[str]] = frozenset({"x", "lengths", "y"})

    def __init__(self, *, min_epochs: int = 1, min_acc: float, min_asr: float, **classification: Any) -> None:
        for name, value in (("min_acc", min_acc), ("min_asr", min_asr)):
            if not 0 <= value <= 1:
                raise ValueError(f"method.{name} must be in [0, 1], got {value}")
        super().__init__(**classification)
        self.min_epochs, self.min_acc, self.min_asr = min_epochs, min_acc, min_asr

    def predict_batch(self, batch: Batch) -> Tensor:
        return self.model(batch["x"], batch["lengths"])

    def scores(self, split: str) -> tuple[float, float]:
        """Accuracy on a split, and attack success rate on its texts of the source class."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        clean = data.splits[split]
        attacked = with_trigger(clean, data.trigger, data.source, self.streams.env.at(3))
        right = self._predict(clean) == clean["y"].to(self.device)
        return float(right.float().mean()), float((self._predict(attacked) == data.target).float().mean())

    def _predict(self, texts: Split) -> Tensor:
        with torch.no_grad():
            return self.predict_batch({name: column.to(self.device) for name, column in texts.items()}).argmax(-1)

    def accepts(self, acc: float, asr: float) -> bool:
        poisoned = self.trainer.datamodule.poison_rate > 0  # type: ignore[attr-defined]
        return acc >= self.min_acc and (asr >= self.min_asr or not poisoned)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        acc, asr = self.scores("val")
        self.log("val/asr", asr)
        if self.current_epoch + 1 >= self.min_epochs and self.accepts(acc, asr):
            self.trainer.should_stop = True

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.log("test/asr", self.scores("test")[1])
        self.log("test/accepted", float(self.accepts(*self.scores("val"))))
        self.log("test/poisoned", float(data.poison_rate > 0))
        words = data.vocabulary
        self.record("vocabulary", [{"token": token, "word": word} for token, word in enumerate(words)])
        self.record("trigger", [{"token": token, "word": words[token]} for token in data.trigger.tolist()])
