r"""RetinaNet.

Lin, Goyal, Girshick, He, Dollár, Focal Loss for Dense Object Detection, ICCV 2017. https://arxiv.org/abs/1708.02002
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from replicata.models.detection.detector import Dense, Detector
from replicata.nn.anchors import Size, anchors
from replicata.nn.boxes import IGNORED, decode, encode, match


class RetinaNet(Detector):
    """A one-stage detector whose places are anchor boxes: focal loss on the classes, L1 on the boxes' codes.

    Args:
        scales: Sides of a cell's square anchors, in strides.
        ratios: Height over width of the anchors.
        positive, negative: Overlap with a true box from which an anchor stands for it, and below which for none.
        **detector: see :class:`~replicata.models.detection.detector.Detector`.
    """

    def __init__(
        self,
        pyramid: nn.Module,
        num_classes: int,
        *,
        scales: Sequence[float] = (4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3)),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        positive: float = 0.5,
        negative: float = 0.4,
        **detector: Any,
    ) -> None:
        if not 0 <= negative <= positive <= 1:
            raise ValueError(f"model: 0 <= negative <= positive <= 1 must hold, got {negative} and {positive}")
        super().__init__(pyramid, num_classes, per_cell=len(scales) * len(ratios), **detector)
        self.scales, self.ratios, self.positive, self.negative = list(scales), list(ratios), positive, negative
        self.to(memory_format=torch.channels_last)

    def anchors(self, sizes: Sequence[Size], device: torch.device) -> Tensor:
        """:math:`(N, 4)`."""
        return anchors(sizes, self.strides, self.scales, self.ratios, device)

    def losses(self, dense: Dense, boxes: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        references = self.anchors(dense.sizes, dense.codes.device)
        matched = match(references, boxes, labels >= 0, self.positive, self.negative)
        image, place = (matched >= 0).nonzero(as_tuple=True)
        which = matched[image, place]
        target = torch.zeros_like(dense.logits)
        target[image, place, labels[image, which]] = 1
        focal = sigmoid_focal_loss(dense.logits, target) * (matched != IGNORED).unsqueeze(2)
        distance = dense.codes[image, place] - encode(boxes[image, which], references[place])
        return {"cls": focal.sum(), "box": distance.abs().sum()}, focal.new_tensor(len(place))

    def boxes(self, dense: Dense) -> Tensor:
        return decode(dense.codes, self.anchors(dense.sizes, dense.codes.device))
