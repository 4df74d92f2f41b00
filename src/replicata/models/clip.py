"""CLIP: two towers whose outputs are compared by their cosine.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CLIP(nn.Module):
    """A network for images and one for texts, each followed by a normalisation to length one.

    Args:
        image: Images :math:`(B, C, H, W)` to :math:`(B, D)`.
        text: Tokens :math:`(B, L)` and lengths :math:`(B)` to :math:`(B, D)`.
        width: :math:`D`.
    """

    def __init__(self, image: nn.Module, text: nn.Module, width: int) -> None:
        super().__init__()
        self.image, self.text, self.width = image, text, width

    def forward(self, image: Tensor, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode_image(image), self.encode_text(tokens, lengths)

    def encode_image(self, image: Tensor) -> Tensor:
        return F.normalize(self.image(image), dim=1)

    def encode_text(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return F.normalize(self.text(tokens, lengths), dim=1)
