"""Neighbour sets of a sparse graph, and what two of them have in common."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Members(NamedTuple):
    """Nodes in one set per pair: ``node[k]`` belongs to the set of pair ``row[k]``; sorted by row, then node."""

    row: Tensor
    node: Tensor

    def where(self, mask: Tensor) -> Members:
        return Members(self.row[mask], self.node[mask])


class Overlap(NamedTuple):
    r"""For pairs :math:`(i, j)`: :math:`N(i) \cap N(j)`, :math:`N(i) \setminus N(j)`, :math:`N(j) \setminus N(i)`."""

    common: Members
    left: Members
    right: Members


class Neighbours:
    """The sets :math:`N(i)` of a graph, kept as sorted edge numbers: every look-up is a binary search.

    Work and memory follow the neighbours of the pairs that are asked about, not the number of nodes.

    Args:
        edges: :math:`(2, E)`; ``edges[1]`` are the neighbours of ``edges[0]``, so an undirected edge stands in both
            directions. Repeated edges count once.
        num_nodes: Number of nodes :math:`N`.

    Attributes:
        degree: :math:`(N)` sizes of the sets.
    """

    def __init__(self, edges: Tensor, num_nodes: int) -> None:
        self.num_nodes = num_nodes
        keys = (edges[0] * num_nodes + edges[1]).unique()
        self.col = keys % num_nodes
        self.degree = torch.bincount(keys // num_nodes, minlength=num_nodes)
        self._start = self.degree.cumsum(0) - self.degree
        self._keys = F.pad(keys, (0, 1), value=num_nodes**2)  # beyond all keys: every search ends at an entry

    def of(self, nodes: Tensor) -> Members:
        """:math:`N(i)` of each of the nodes :math:`(B)`."""
        counts = self.degree[nodes]
        row = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), counts)
        shift = self._start[nodes] - (counts.cumsum(0) - counts)
        return Members(row, self.col[torch.arange(len(row), device=nodes.device) + shift[row]])

    def contain(self, nodes: Tensor, others: Tensor) -> Tensor:
        """Whether ``others[k]`` is a neighbour of ``nodes[k]``."""
        keys = nodes * self.num_nodes + others
        return self._keys[torch.searchsorted(self._keys, keys)] == keys

    def common(self, pairs: Tensor) -> Members:
        r""":math:`N(i) \cap N(j)` of pairs :math:`(B, 2)`; the shorter list of neighbours is walked through."""
        shorter = self.degree[pairs].argmin(1, keepdim=True)
        few, many = pairs.gather(1, shorter)[:, 0], pairs.gather(1, 1 - shorter)[:, 0]
        members = self.of(few)
        return members.where(self.contain(many[members.row], members.node))

    def overlap(self, pairs: Tensor) -> Overlap:
        """The three parts of the union of the neighbours of pairs :math:`(B, 2)`."""
        left, right = self.of(pairs[:, 0]), self.of(pairs[:, 1])
        shared = self.contain(pairs[left.row, 1], left.node)
        known = self.contain(pairs[right.row, 0], right.node)
        return Overlap(left.where(shared), left.where(~shared), right.where(~known))

    def walks(self) -> Neighbours:
        r""":math:`N_2(i)`: nodes at the end of a walk of length two, :math:`i` itself among them."""
        first = self.of(torch.arange(self.num_nodes, device=self.col.device))
        second = self.of(first.node)
        return Neighbours(torch.stack([first.row[second.row], second.node]), self.num_nodes)

    def thinned(self, dropout: float) -> Neighbours:
        """Each entry of each set left out with probability ``dropout``, so that the sets lose their symmetry."""
        keys = self._keys[:-1]
        keys = keys[torch.rand(len(keys), device=keys.device) >= dropout]
        return Neighbours(torch.stack([keys // self.num_nodes, keys % self.num_nodes]), self.num_nodes)


def pool(x: Tensor, members: Members, pairs: int, weight: Tensor | None = None) -> Tensor:
    r"""Sums over sets: :math:`\sum_{u \in S_k} w_u x_u` for every pair :math:`k`, zero for an empty set.

    Args:
        x: :math:`(N, F)` vectors of the nodes.
        members: The sets :math:`S_k`.
        pairs: Number of sets.
        weight: One for every member; ``None``: 1.
    """
    values = x.index_select(0, members.node)
    if weight is not None:
        values = values * weight[:, None]
    return x.new_zeros(pairs, x.shape[1]).index_add(0, members.row, values)
