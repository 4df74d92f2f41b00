r"""Noiseless pairs of a linear map of low rank."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from replicata.data.module import Split, TensorDataModule


class LinearMap(TensorDataModule):
    r"""Pairs :math:`y = A x` without noise; all splits are the same rows, since nothing is left to chance.

    Shapes:
        - ``x``: :math:`(B, F)`; ``y``: :math:`(B, G)`.

    Args:
        task: ``map``: :math:`A` is a product of two standard normal matrices, and :math:`x` goes through the unit
            vectors; ``identity``: :math:`A = I`, and :math:`x` are ``rank`` standard normal points, whose
            subspace a linear autoencoder has to find.
        in_features, out_features: :math:`F` and :math:`G`; declared facts. For ``identity`` they are equal.
        rank: Rank of the map on the data; a declared fact.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.
    """

    def __init__(
        self,
        *,
        task: Literal["map", "identity"] = "map",
        in_features: int = 9,
        out_features: int = 6,
        rank: int = 3,
        **loader: Any,
    ) -> None:
        if task not in ("map", "identity"):
            raise ValueError(f"data.task must be map or identity, got {task!r}")
        if not 1 <= rank <= min(in_features, out_features):
            raise ValueError(f"data.rank must be between 1 and {min(in_features, out_features)}, got {rank}")
        if task == "identity" and in_features != out_features:
            raise ValueError(f"data.out_features must be {in_features} for task=identity, got {out_features}")
        super().__init__(**loader)
        self.task, self.in_features, self.out_features, self.rank = task, in_features, out_features, rank

    def load(self) -> dict[str, Split]:
        if self.task == "map":
            x = torch.eye(self.in_features)
            y = self._normal(self.in_features, self.rank) @ self._normal(self.rank, self.out_features)
        else:
            x = y = self._normal(self.rank, self.in_features)
        return {split: {"x": x, "y": y} for split in ("train", "val", "test")}

    def facts(self) -> dict[str, Any]:
        x, y = self.splits["train"]["x"], self.splits["train"]["y"]
        rank = int(torch.linalg.matrix_rank(y))
        return {"in_features": x.shape[1], "out_features": y.shape[1], "rank": rank}

    def _normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.streams.split.numpy.standard_normal(shape)).float()
