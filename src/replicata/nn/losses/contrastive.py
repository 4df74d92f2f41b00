r"""Contrastive losses of a batch of pairs, of which the :math:`i`-th image and the :math:`i`-th text belong together.

CLIP: Radford et al., ICML 2021, https://arxiv.org/abs/2103.00020.
CyCLIP: Goel et al., NeurIPS 2022, https://arxiv.org/abs/2205.14459.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(similarity: Tensor, tau: Tensor | float) -> Tensor:
    r"""Cross-entropy of finding each image's text and each text's image, the mean of both.

    Args:
        similarity: :math:`(B, B)`, images by texts.
        tau: Temperature, by which it is divided.
    """
    logits = similarity / tau
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def cyclic_losses(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    r"""How far similarities are from being consistent, in-modal and cross-modal.

    .. math::
        \tfrac{1}{B} \sum_{jk} (\langle x_j, x_k \rangle - \langle t_j, t_k \rangle)^2, \qquad
        \tfrac{1}{B} \sum_{jk} (\langle x_j, t_k \rangle - \langle x_k, t_j \rangle)^2

    Args:
        image, text: Unit vectors :math:`(B, D)`.
    """
    across = image @ text.t()
    inside = (image @ image.t() - text @ text.t()).square()
    return inside.sum() / len(image), (across - across.t()).square().sum() / len(image)
