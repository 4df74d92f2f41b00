"""Exact non-edges of an undirected graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from replicata.errors import UserError
from replicata.streams import Stream


class NonEdges:
    r"""All pairs :math:`i < j` of a graph that are not linked, by number; none of them is kept in memory.

    Pair :math:`(i, j)` has the number :math:`j (j - 1) / 2 + i`. Before the m-th of the sorted numbers :math:`e_m`
    of the edges there are :math:`e_m - m` others, which gives the r-th non-edge by one binary search: no draw is
    ever rejected, and nothing is drawn twice. (torch_geometric's ``negative_sampling`` rejects draws, may return fewer
    than it was asked for, and uses the global generators.)

    Args:
        edges: :math:`(2, E)`, in one or both directions; repeated edges count once, self-loops not at all.
        num_nodes: Number of nodes.
    """

    def __init__(self, edges: Tensor, num_nodes: int) -> None:
        low, high = np.sort(edges.cpu().numpy(), axis=0)
        numbers = np.unique((high * (high - 1) // 2 + low)[low < high])
        self._before = numbers - np.arange(len(numbers))
        self.count = num_nodes * (num_nodes - 1) // 2 - len(numbers)

    def pairs(self, ranks: np.ndarray) -> Tensor:
        """The non-edges :math:`(B, 2)` of the given ranks :math:`(B)` among all, smaller node first."""
        number = ranks + np.searchsorted(self._before, ranks, side="right")
        high = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
        high -= high * (high - 1) // 2 > number  # the root of a large number may be off by one
        high += high * (high + 1) // 2 <= number
        return torch.from_numpy(np.stack([number - high * (high - 1) // 2, high], axis=1))

    def draw(self, size: int, stream: Stream) -> Tensor:
        """Different non-edges :math:`(size, 2)`, uniformly.

        Raises:
            UserError: if there are not so many.
        """
        if size > self.count:
            raise UserError(f"data: {size} pairs without an edge are wanted, but the graph has only {self.count}")
        return self.pairs(stream.numpy.choice(self.count, size, replace=False))
