r"""FCOS.

Tian, Shen, Chen, He, FCOS: A Simple and Strong Anchor-Free Object Detector, TPAMI 2020.
https://arxiv.org/abs/2006.09214
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from replicata.models.detection.detector import Dense, Detector, by_place, small_normal
from replicata.nn.anchors import Size, cell_centres, cell_strides


class FCOS(Detector):
    """A one-stage detector whose places are the cells' centres; a box is coded by the distances of its four sides.

    Focal loss on the classes, generalised IoU on the boxes, cross-entropy on the centredness, whose logits come
    from the boxes' tower. Distances are in strides, and none is negative.

    Args:
        reach: Upper end of a level's range of largest distances, in strides; its lower end is half of that. The
            first level's range starts at 0, the last one's has no end.
        radius: A place stands for a box only within so many strides of the box's centre, along both axes.
        **detector: see :class:`~replicata.models.detection.detector.Detector`.
    """

    def __init__(
        self, pyramid: nn.Module, num_classes: int, *, reach: float = 8.0, radius: float = 1.5, **detector: Any
    ) -> None:
        if reach <= 0 or radius <= 0:
            raise ValueError(f"model.reach and model.radius must be above 0, got {reach} and {radius}")
        super().__init__(pyramid, num_classes, per_cell=1, **detector)
        self.reach, self.radius = reach, radius
        self.centredness = nn.Conv2d(self.channels, 1, 3, padding=1)
        small_normal(self.centredness)
        self.to(memory_format=torch.channels_last)

    def predict(self, cls: Sequence[Tensor], reg: Sequence[Tensor]) -> Dense:
        dense = super().predict(cls, reg)
        quality = by_place([self.centredness(level) for level in reg], 1).squeeze(2)
        return dense._replace(codes=dense.codes.relu(), quality=quality)

    def assign(self, sizes: Sequence[Size], boxes: Tensor, present: Tensor) -> Tensor:
        """The number of the box that each place stands for, :math:`(B, N)`; -1 for none.

        Of several boxes it is the smallest.
        """
        centre, stride = self._cells(sizes, boxes.device)
        distance = distances(centre, boxes.unsqueeze(2))  # (B, M, N, 4)
        middle = (boxes[..., :2] + boxes[..., 2:]).unsqueeze(2) / 2
        near = (middle - centre).abs().amax(3) < self.radius * stride
        largest = distance.amax(3)
        upper = self.reach * stride
        lower = (upper / 2).masked_fill(stride == self.strides[0], 0)
        fits = (largest >= lower) & (largest < upper.masked_fill(stride == self.strides[-1], torch.inf))
        inside = distance.amin(3) > 0
        area = (boxes[..., 2:] - boxes[..., :2]).prod(2, keepdim=True).expand_as(largest)
        least, which = area.masked_fill(~(near & fits & inside & present.unsqueeze(2)), torch.inf).min(1)
        return torch.where(least.isfinite(), which, -1)

    def losses(self, dense: Dense, boxes: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        matched = self.assign(dense.sizes, boxes, labels >= 0)
        image, place = (matched >= 0).nonzero(as_tuple=True)
        which = matched[image, place]
        target = torch.zeros_like(dense.logits)
        target[image, place, labels[image, which]] = 1
        true = boxes[image, which]
        left, top, right, bottom = distances(self._cells(dense.sizes, boxes.device)[0][place], true).unbind(1)
        narrow = torch.minimum(left, right) * torch.minimum(top, bottom)
        centred = (narrow / (torch.maximum(left, right) * torch.maximum(top, bottom))).sqrt()
        assert dense.quality is not None
        quality = F.binary_cross_entropy_with_logits(dense.quality[image, place], centred, reduction="sum")
        losses = {
            "cls": sigmoid_focal_loss(dense.logits, target, reduction="sum"),
            "box": generalized_box_iou_loss(self.boxes(dense)[image, place], true, reduction="sum"),
            "centred": quality,
        }
        return losses, quality.new_tensor(len(place))

    def boxes(self, dense: Dense) -> Tensor:
        centre, stride = self._cells(dense.sizes, dense.codes.device)
        codes = dense.codes * stride.unsqueeze(1)
        return torch.cat([centre - codes[..., :2], centre + codes[..., 2:]], -1)

    def scores(self, dense: Dense) -> Tensor:
        """Geometric means of the classes' probabilities and the centredness."""
        assert dense.quality is not None
        return (dense.logits.sigmoid() * dense.quality.sigmoid().unsqueeze(2)).sqrt()

    def _cells(self, sizes: Sequence[Size], device: torch.device) -> tuple[Tensor, Tensor]:
        return cell_centres(sizes, self.strides, device), cell_strides(sizes, self.strides, device)


def distances(points: Tensor, boxes: Tensor) -> Tensor:
    """From points :math:`(…, 2)` to the left, top, right and bottom sides of boxes :math:`(…, 4)`; negative outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
