"""Events of users in time order: an example is a candidate together with what the user did before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.data.module import TensorDataModule


class Histories(TensorDataModule):
    """Histories are cut per batch out of one log of events, so memory does not grow with their length.

    :meth:`load` returns splits whose rows hold ``candidate`` :math:`(N, F)`, ``y``, ``group`` and, for the history,
    ``row``, the place in the log before which it ends, and ``start``, where the user's events begin; and beside them
    ``log``, whose column ``item`` :math:`(M, F)` has all events, sorted by user and time.

    Shapes:
        - ``history``: :math:`(B, T, F)`, the most recent first, right-padded with zeros; ``history_mask``:
          :math:`(B, T)`, false where padded; ``candidate``: :math:`(B, F)`; ``y``: :math:`(B)` clicks; ``group``:
          :math:`(B)` users.

    Args:
        history: Longest history :math:`T`.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.
    """

    def __init__(self, *, history: int, **loader: Any) -> None:
        if history < 1:
            raise ValueError(f"data.history must be at least 1, got {history}")
        super().__init__(**loader)
        self.history = history
        self._log: Tensor | None = None

    @property
    def columns(self) -> frozenset[str]:
        return frozenset({"history", "history_mask", "candidate", "y", "group", "index"})

    def transform(self, batch: Batch) -> Batch:
        """Cut the histories out of the log."""
        row, start = batch.pop("row"), batch.pop("start")
        if self._log is None or self._log.device != row.device:
            self._log = self.splits["log"]["item"].to(row.device)
        before = row.unsqueeze(1) - torch.arange(1, self.history + 1, device=row.device)
        mask = before >= start.unsqueeze(1)
        items = self._log[before.clamp_min(0)]
        return batch | {"history": items * mask.unsqueeze(2), "history_mask": mask}


def starts(users: Tensor) -> Tensor:
    """Where in a log sorted by user (numbers from 0, all of them there) the events of each row's user begin."""
    counts = torch.bincount(users)
    return (counts.cumsum(0) - counts)[users]
