r"""Focal loss of heat maps.

Law, Deng, CornerNet: Detecting Objects as Paired Keypoints, ECCV 2018. https://arxiv.org/abs/1808.01244
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_focal(logits: Tensor, heat: Tensor, alpha: float = 2.0, gamma: float = 4.0) -> Tensor:
    r"""Elementwise :math:`-(1 - p)^\alpha \log p` where the target is 1, else
    :math:`-(1 - h)^\gamma p^\alpha \log(1 - p)`.

    Args:
        logits: Of :math:`p`, any shape.
        heat: Targets :math:`h` in [0, 1], of the same shape.
    """
    p = logits.sigmoid()
    centre = -((1 - p) ** alpha) * F.logsigmoid(logits)
    around = -((1 - heat) ** gamma) * p**alpha * F.logsigmoid(-logits)
    return torch.where(heat == 1, centre, around)
