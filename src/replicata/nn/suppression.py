"""From dense predictions to detections: candidates by score, then suppression of what overlaps a better one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

Detections = dict[str, Tensor]  # boxes (n, 4), scores (n), labels (n); the highest score first


@dataclass(frozen=True)
class Suppression:
    """How predictions are chosen, as in torchvision's RetinaNet.

    Args:
        score: Lowest score of a candidate; it must be above.
        iou: Overlap with a better candidate of the same class that removes one.
        most: Detections of an image.
        candidates: Candidates (place and class) of a level.
    """

    score: float = 0.05
    iou: float = 0.5
    most: int = 100
    candidates: int = 1000

    def __call__(
        self, scores: Tensor, boxes: Tensor, levels: Sequence[int], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Detections of each image.

        Args:
            scores: :math:`(B, N, K)`.
            boxes: :math:`(B, N, 4)`, of the places; all classes share them.
            levels: How many of the :math:`N` places belong to each level.
            sizes: Height and width of each image.
        """
        images = zip(scores, boxes, sizes, strict=True)
        return [self._one(score, box, levels, size) for score, box, size in images]

    def _one(self, scores: Tensor, boxes: Tensor, levels: Sequence[int], size: tuple[int, int]) -> Detections:
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for own, places in zip(scores.split(list(levels)), boxes.split(list(levels)), strict=True):
            flat = own.flatten()
            above = (flat > self.score).nonzero().squeeze(1)
            values, order = flat[above].topk(min(self.candidates, len(above)))
            at = above[order]
            place = at.div(own.shape[1], rounding_mode="floor")
            found.append((clip_boxes_to_image(places[place], size), values, at % own.shape[1]))
        box, score, label = (torch.cat(column) for column in zip(*found, strict=True))
        kept = batched_nms(box, score, label, self.iou)[: self.most]
        return {"boxes": box[kept], "scores": score[kept], "labels": label[kept]}
