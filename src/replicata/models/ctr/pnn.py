"""Product-based neural network (Qu et al., ICDM 2016). https://arxiv.org/abs/1611.00144"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.models.ctr.base_model import BaseModel


class PNN(BaseModel):
    """The base model whose MLP also sees the inner products of all pairs of fields (IPNN).

    Fields are the pooled history's and the candidate's, :math:`2F` in all.

    Args:
        sizes: As of the base model.
        **base: See :class:`~replicata.models.ctr.base_model.BaseModel`.
    """

    pairs: Tensor

    def __init__(self, sizes: Sequence[int], **base: Any) -> None:
        count = 2 * len(sizes)
        super().__init__(sizes, extra=count * (count - 1) // 2, **base)
        self.register_buffer("pairs", torch.triu_indices(count, count, offset=1), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        history, candidate = self.embed(batch)
        user = self.pool(history, batch["history_mask"])
        fields = self.fields(user, candidate)
        products = (fields[:, self.pairs[0]] * fields[:, self.pairs[1]]).sum(2)
        return self.predict(user, candidate, products)
