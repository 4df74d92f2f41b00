"""DeepFM (Guo et al., IJCAI 2017). https://arxiv.org/abs/1703.04247"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from replicata.data.loaders import Batch
from replicata.models.ctr.base_model import BaseModel
from replicata.models.ctr.logistic_regression import LogisticRegression
from replicata.nn.field_embeddings import second_order


class DeepFM(BaseModel):
    """The base model plus a factorisation machine on the same embeddings.

    Fields are the pooled history's and the candidate's, :math:`2F` in all.

    Args:
        sizes: As of the base model.
        **base: See :class:`~replicata.models.ctr.base_model.BaseModel`.
    """

    def __init__(self, sizes: Sequence[int], **base: Any) -> None:
        super().__init__(sizes, **base)
        self.linear = LogisticRegression(sizes, pooling="mean" if self.mean else "sum")

    def forward(self, batch: Batch) -> Tensor:
        history, candidate = self.embed(batch)
        user = self.pool(history, batch["history_mask"])
        return self.predict(user, candidate) + self.linear(batch) + second_order(self.fields(user, candidate))
