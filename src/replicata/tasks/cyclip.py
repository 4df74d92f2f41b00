"""CyCLIP: CLIP with similarities that are asked to be consistent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from replicata.data.loaders import Batch
from replicata.nn.gather import gather_rows
from replicata.nn.losses.contrastive import clip_loss, cyclic_losses
from replicata.tasks.dual_encoder import DualEncoder


class CyCLIP(DualEncoder):
    """Goel et al., NeurIPS 2022, https://arxiv.org/abs/2205.14459.

    Args:
        in_modal, cross_modal: Weights of the two cyclic losses. Paper: 0.25 each.
        **clip: see :class:`~replicata.tasks.dual_encoder.DualEncoder`.

    Raises:
        ValueError: if a weight is negative.
    """

    def __init__(self, in_modal: float = 0.25, cross_modal: float = 0.25, **clip: Any) -> None:
        if min(in_modal, cross_modal) < 0:
            raise ValueError(f"method.in_modal and cross_modal must be >= 0, got {in_modal}, {cross_modal}")
        super().__init__(**clip)
        self.in_modal, self.cross_modal = in_modal, cross_modal

    def objective(self, batch: Batch, image: Tensor, text: Tensor) -> Mapping[str, Tensor]:
        image, text = gather_rows(image), gather_rows(text)
        inside, across = cyclic_losses(image, text)
        return {
            "clip": clip_loss(image @ text.t(), self.tau),
            "in_modal": self.in_modal * inside,
            "cross_modal": self.cross_modal * across,
        }
