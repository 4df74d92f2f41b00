"""Base model of click prediction from a user's history: embed, pool, multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.nn.field_embeddings import FieldEmbeddings, masked_pool
from replicata.nn.tower import ChannelActivation, tower


class BaseModel(nn.Module):
    r"""Embedding and MLP, the base model of "Deep Interest Network" (KDD 2018): one user vector for all candidates.

    An item is several categorical fields (its id, its category); its vector is the concatenation of their embeddings,
    :math:`H = F D`. History and candidate share the table.

    Args:
        sizes: Number of values of each of the :math:`F` fields of an item.
        dim: Width :math:`D` of an embedding.
        widths: Hidden widths of the MLP.
        activation: ``prelu`` or ``dice``, in the MLP.
        pooling: ``sum`` or ``mean`` over the history.
        extra: Further inputs of the MLP; models that derive from this one fill them.

    Shapes:
        - ``batch["history"]``: :math:`(B, T, F)`; ``batch["history_mask"]``: :math:`(B, T)`, false where padded;
          ``batch["candidate"]``: :math:`(B, F)`; output: :math:`(B)` logits.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        dim: int = 12,
        widths: Sequence[int] = (80, 40),
        activation: ChannelActivation = "prelu",
        pooling: Literal["sum", "mean"] = "sum",
        extra: int = 0,
    ) -> None:
        if pooling not in ("sum", "mean"):
            raise ValueError(f"model.pooling must be sum or mean, got {pooling!r}")
        super().__init__()
        self.embeddings = FieldEmbeddings(sizes, dim)
        self.num_fields, self.dim, self.width = len(sizes), dim, len(sizes) * dim
        self.mean = pooling == "mean"
        self.mlp = tower(2 * self.width + extra, widths, 1, activation)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors of the history :math:`(B, T, H)` and of the candidate :math:`(B, H)`."""
        return self.embeddings(batch["history"]).flatten(2), self.embeddings(batch["candidate"]).flatten(1)

    def pool(self, history: Tensor, mask: Tensor) -> Tensor:
        """The user vector :math:`(B, H)`."""
        return masked_pool(history, mask, mean=self.mean)

    def predict(self, *inputs: Tensor) -> Tensor:
        """Logits :math:`(B)` from the user vector, the candidate's and whatever else."""
        return self.mlp(torch.cat(inputs, 1)).squeeze(1)

    def forward(self, batch: Batch) -> Tensor:
        history, candidate = self.embed(batch)
        return self.predict(self.pool(history, batch["history_mask"]), candidate)

    def fields(self, user: Tensor, candidate: Tensor) -> Tensor:
        """User's and candidate's vectors cut into those of the fields again: :math:`(B, 2F, D)`."""
        return torch.stack([user, candidate], 1).unflatten(2, (self.num_fields, self.dim)).flatten(1, 2)

    def rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of the table that a batch reads, :math:`(B, (T + 1) F)`, and which of them are no padding."""
        steps = torch.cat([batch["history"], batch["candidate"].unsqueeze(1)], 1)
        mask = torch.cat([batch["history_mask"], torch.ones_like(batch["history_mask"][:, :1])], 1)
        return self.embeddings.rows(steps).flatten(1), mask.unsqueeze(2).expand_as(steps).flatten(1)
