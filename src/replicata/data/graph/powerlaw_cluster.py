"""Graphs that grow by preferential attachment and closing triangles.

Holme, Kim, Physical Review E 2002. https://arxiv.org/abs/cond-mat/0110452
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from replicata.data.graph.links import LinkDataModule


class PowerlawCluster(LinkDataModule):
    """A graph drawn from the run's ``split`` stream, in which common neighbours tell of links; needs no files.

    Args:
        attached: Links that each new node brings.
        triangles: Probability that a link closes a triangle.
        **links: See :class:`~replicata.data.graph.links.LinkDataModule`.
    """

    def __init__(self, *, attached: int = 5, triangles: float = 0.8, **links: Any) -> None:
        super().__init__(**links)
        if not 1 <= attached < self.num_nodes:
            raise ValueError(f"data.attached must be between 1 and {self.num_nodes - 1}, got {attached}")
        if not 0 <= triangles <= 1:
            raise ValueError(f"data.triangles must be in [0, 1], got {triangles}")
        self.attached, self.triangles = attached, triangles

    def load(self) -> Mapping[str, Tensor]:
        from networkx import powerlaw_cluster_graph

        seed = int(self.streams.split.numpy.integers(2**31))
        graph = powerlaw_cluster_graph(self.num_nodes, self.attached, self.triangles, seed=seed)
        return {"edges": torch.tensor(sorted(graph.edges)).T}
