"""Logistic regression on the values of categorical fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.nn.field_embeddings import FieldEmbeddings, masked_pool


class LogisticRegression(nn.Module):
    """A weight for every value of the candidate's fields and one for every value of the history's, and a bias.

    Args:
        sizes: Number of values of each of the :math:`F` fields of an item.
        pooling: ``sum`` or ``mean`` of the history's weights.

    Shapes:
        - as :class:`~replicata.models.ctr.base_model.BaseModel`.
    """

    def __init__(self, sizes: Sequence[int], *, pooling: Literal["sum", "mean"] = "sum") -> None:
        if pooling not in ("sum", "mean"):
            raise ValueError(f"model.pooling must be sum or mean, got {pooling!r}")
        super().__init__()
        self.candidate = FieldEmbeddings(sizes, 1, std=0.0)
        self.history = FieldEmbeddings(sizes, 1, std=0.0)
        self.bias = nn.Parameter(torch.zeros(()))
        self.mean = pooling == "mean"

    def forward(self, batch: Batch) -> Tensor:
        history = self.history(batch["history"]).sum(2)
        pooled = masked_pool(history, batch["history_mask"], mean=self.mean)
        return self.bias + self.candidate(batch["candidate"]).sum((1, 2)) + pooled.squeeze(1)
