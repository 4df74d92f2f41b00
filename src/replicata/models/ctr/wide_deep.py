"""Wide & Deep (Cheng et al., DLRS 2016). https://arxiv.org/abs/1606.07792"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.models.ctr.base_model import BaseModel
from replicata.models.ctr.logistic_regression import LogisticRegression
from replicata.nn.field_embeddings import masked_pool


class WideDeep(BaseModel):
    """The base model plus a linear model over raw values and crossed ones, both trained together.

    The cross-product transformation is the authors': behaviour times candidate. It is taken of the last field, the
    category, since items crossed with items would not fit.

    Args:
        sizes: As of the base model; the last field is crossed.
        **base: See :class:`~replicata.models.ctr.base_model.BaseModel`.
    """

    def __init__(self, sizes: Sequence[int], **base: Any) -> None:
        super().__init__(sizes, **base)
        self.wide = LogisticRegression(sizes, pooling="mean" if self.mean else "sum")
        self.crossed = nn.Parameter(torch.zeros(sizes[-1], sizes[-1]))

    def forward(self, batch: Batch) -> Tensor:
        crossed = self.crossed[batch["history"][..., -1], batch["candidate"][:, None, -1]]
        pooled = masked_pool(crossed.unsqueeze(2), batch["history_mask"], mean=self.mean)
        return super().forward(batch) + self.wide(batch) + pooled.squeeze(1)
