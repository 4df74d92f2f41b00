r"""Boxes: as offsets from reference boxes, and which references stand for which box.

Girshick, Fast R-CNN, ICCV 2015, for the code; Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, for the
matching. Boxes are :math:`(x_1, y_1, x_2, y_2)` in pixels. (torchvision has both, in modules that are not public.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou

NEGATIVE, IGNORED = -1, -2
LARGEST = math.log(1000 / 16)  # of a decoded side over its reference, as in torchvision and Detectron


def encode(boxes: Tensor, references: Tensor) -> Tensor:
    r"""Offsets :math:`((x - x_r) / w_r,\ (y - y_r) / h_r,\ \log w / w_r,\ \log h / h_r)` of centres and sides.

    Args:
        boxes, references: :math:`(\dots, 4)`, sides above 0.
    """
    (x, y, w, h), (rx, ry, rw, rh) = _centres(boxes), _centres(references)
    return torch.stack([(x - rx) / rw, (y - ry) / rh, (w / rw).log(), (h / rh).log()], -1)


def decode(codes: Tensor, references: Tensor) -> Tensor:
    r"""The boxes :math:`(\dots, 4)` that :func:`encode` would turn into ``codes``; growth is limited to 62.5 times."""
    rx, ry, rw, rh = _centres(references)
    dx, dy, dw, dh = codes.unbind(-1)
    x, y = rx + dx * rw, ry + dy * rh
    w, h = rw * dw.clamp(max=LARGEST).exp() / 2, rh * dh.clamp(max=LARGEST).exp() / 2
    return torch.stack([x - w, y - h, x + w, y + h], -1)


def match(references: Tensor, boxes: Tensor, present: Tensor, positive: float = 0.5, negative: float = 0.4) -> Tensor:
    """To which box each reference is assigned, by their intersection over union.

    A reference gets the box that it overlaps most, if by ``positive`` or more; below ``negative`` it is background,
    between the two it is ignored. A box's best references (all that tie) are not left without one, as long as they
    overlap at all; like torchvision's, they then get the box that they themselves overlap most.

    Args:
        references: :math:`(N, 4)`.
        boxes: :math:`(B, M, 4)`.
        present: :math:`(B, M)`, false where ``boxes`` is padded.

    Returns:
        :math:`(B, N)` numbers of boxes; -1 for background, -2 for what is ignored.
    """
    overlap = box_iou(boxes, references.expand(len(boxes), -1, -1)).masked_fill(~present.unsqueeze(2), -1)  # (B, M, N)
    best, which = overlap.max(1)
    highest = overlap.amax(2, keepdim=True)
    rescued = ((overlap == highest) & (highest > 0)).any(1)
    result = torch.where(best >= negative, IGNORED, NEGATIVE)
    return torch.where((best >= positive) | rescued, which, result)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    return x1 + w / 2, y1 + h / 2, w, h
