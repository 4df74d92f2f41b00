"""DualEncoder: images and their texts in one space. Concrete: CLIP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.metrics.retrieval import Retrieval, zero_shot_accuracy
from replicata.models.clip import CLIP
from replicata.nn.gather import gather_rows
from replicata.nn.losses.contrastive import clip_loss
from replicata.optim.groups import decay_groups
from replicata.tasks.base import Task, total

LOWEST, HIGHEST = 0.001, 0.5  # of a temperature that is learned


class DualEncoder(Task):
    r"""Contrastive learning of two towers; a method overrides :meth:`objective`.

    Trained on several processes, every step sees the pairs of all of them. Training takes the first caption of an
    image; evaluation takes all of them, and what finds any of an image's captions has found it.

    Metrics: those of :class:`~replicata.metrics.retrieval.Retrieval` in validation and test; where the data has a set
    for it (``data.zero_shot``), ``test/zeroshot_acc``, classification by prompts; ``train/loss``, and ``train/tau`` if
    the temperature is learned.

    Args:
        tau: Temperature.
        learn_tau: Whether it is a parameter, kept in [0.001, 0.5].
        **task: see :class:`~replicata.tasks.base.Task`; ``model`` is a :class:`~replicata.models.clip.CLIP`.

    Shapes:
        - ``batch["image"]``: :math:`(B, C, H, W)`, ``batch["tokens"]``: :math:`(B, K, L)`, ``batch["lengths"]``:
          :math:`(B, K)`, ``batch["key"]``: :math:`(B)`, equal for what counts as the same.

    Raises:
        ValueError: if ``tau`` is not positive, or is learned and outside its range.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"image", "tokens", "lengths", "key"})
    model: CLIP

    def __init__(self, tau: float = 0.07, learn_tau: bool = False, **task: Any) -> None:
        if tau <= 0 or (learn_tau and not LOWEST <= tau <= HIGHEST):
            limits = f"in [{LOWEST}, {HIGHEST}] if it is learned" if learn_tau else "above 0"
            raise ValueError(f"method.tau must be {limits}, got {tau}")
        super().__init__(**task)
        self.learn_tau = learn_tau
        self.tau: Tensor | float = nn.Parameter(torch.tensor(tau)) if learn_tau else tau
        self.retrieval = nn.ModuleDict({stage: Retrieval() for stage in ("val", "test")})

    # What a method defines -----------------------------------------------------------------

    def objective(self, batch: Batch, image: Tensor, text: Tensor) -> Tensor | Mapping[str, Tensor]:
        """The loss of all pairs, or several that are summed, from this process's unit vectors :math:`(B, D)`."""
        image, text = gather_rows(image), gather_rows(text)
        return clip_loss(image @ text.t(), self.tau)

    def parameter_groups(self) -> Iterable[Any]:
        return decay_groups(self)

    # What Lightning calls ------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.learn_tau:
            assert isinstance(self.tau, nn.Parameter)
            self.tau.data.clamp_(LOWEST, HIGHEST)
        image, text = self.model(batch["image"], batch["tokens"][:, 0], batch["lengths"][:, 0])
        if "share" in batch and float(batch["share"]) == 0:  # a process without rows of its own got one to fill in
            image, text, batch = (
                image[:0],
                text[:0],
                {name: column[:0] for name, column in batch.items() if column.ndim},
            )
        # Half precision has too few digits for similarities that are divided by a small temperature.
        with torch.autocast(image.device.type, enabled=False):
            loss, losses = total(self.objective(batch, image.float(), text.float()))
        if self.learn_tau:
            losses = losses | {"tau": torch.as_tensor(self.tau).detach()}
        self.meters["train"].update(losses, batch["key"], batch["key"])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate("test", batch)

    def evaluate(self, stage: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """Add a batch to the metrics; its unit vectors :math:`(B, D)` and, of all captions, :math:`(BK, D)`."""
        tokens, lengths = batch["tokens"], batch["lengths"]
        image = self.model.encode_image(batch["image"])
        text = self.model.encode_text(tokens.flatten(0, 1), lengths.flatten())
        key = batch["key"]
        self._retrieval(stage).update(image, text, key, key.repeat_interleave(tokens.shape[1]))
        return image, text

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_retrieval("val")

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_retrieval("test")
        single = getattr(self.trainer.datamodule, "zero_shot", None)  # type: ignore[attr-defined]
        if single:
            parts = single["image"].split(256)
            image = torch.cat([self.model.encode_image(part.to(self.device)) for part in parts])
            prompts = self.model.encode_text(single["prompts"].to(self.device), single["lengths"])
            accuracy = zero_shot_accuracy(image, single["y"].to(self.device), prompts)
            self.log("test/zeroshot_acc", accuracy, sync_dist=False, rank_zero_only=False)

    def _retrieval(self, stage: str) -> Retrieval:
        metric = self.retrieval[stage]
        assert isinstance(metric, Retrieval)
        return metric

    def _log_retrieval(self, stage: str) -> None:
        metric = self._retrieval(stage)
        values = {f"{stage}/{name}": value for name, value in metric.compute().items()}
        self.log_dict(values, sync_dist=False, rank_zero_only=False)
        metric.reset()
