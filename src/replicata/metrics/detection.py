"""Average precision of detections, by COCO's rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch.distributed as dist
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

Boxes = Mapping[str, Tensor]


class CocoAP:
    """``ap`` (mean over IoU 0.50 to 0.95), ``ap50`` and ``ap75``, over all images added.

    torchmetrics and pycocotools compute them. What the processes have seen is gathered here: torchmetrics can only
    gather lists of equal length.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def update(self, detections: Iterable[Boxes], targets: Iterable[Boxes]) -> None:
        """Add images.

        Args:
            detections: Of each image ``boxes`` :math:`(n, 4)`, ``scores`` and ``labels`` :math:`(n)`.
            targets: Of each image ``boxes`` :math:`(m, 4)`, ``labels`` :math:`(m)`; optional ``iscrowd`` :math:`(m)`.
        """
        for found, true in zip(detections, targets, strict=True):
            self.seen.append((_plain(found), _plain(true)))

    def compute(self) -> dict[str, float]:
        seen = self.seen
        if dist.is_available() and dist.is_initialized():
            parts: list[list[tuple[dict[str, Tensor], dict[str, Tensor]]]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(parts, self.seen)
            seen = [image for part in parts for image in part]
        metric = MeanAveragePrecision(box_format="xyxy", iou_type="bbox")
        metric.warn_on_many_detections = False
        metric.update([found for found, _ in seen], [true for _, true in seen])
        values = metric.compute()
        names = {"ap": "map", "ap50": "map_50", "ap75": "map_75"}
        return {name: float(values[key]) for name, key in names.items()}

    def reset(self) -> None:
        self.seen = []


def _plain(boxes: Boxes) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in boxes.items()}
