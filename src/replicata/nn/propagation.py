"""Parameter-free propagation over a graph by powers of its normalised adjacency matrix."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from replicata.nn.sparse import csr, matmul, transpose


def normalised_adjacency(edges: Tensor, num_nodes: int, norm: Literal["sym", "row"] = "sym") -> Tensor:
    r"""The adjacency matrix with one self-loop per node, normalised by degrees.

    With :math:`\tilde A = A + I` and its degree matrix :math:`\tilde D`:
    ``sym`` is :math:`\tilde D^{-1/2} \tilde A \tilde D^{-1/2}`, ``row`` is :math:`\tilde D^{-1} \tilde A`.

    Args:
        edges: :math:`(2, E)` node numbers (target, source); an undirected edge stands in both
            directions. Repeated edges count once, self-loops among them are replaced.
        num_nodes: Number of nodes :math:`N`; nodes without edges keep their self-loop.
        norm: Which normalisation.

    Returns:
        :math:`(N, N)` sparse CSR matrix of float32; exactly symmetric for ``sym`` on undirected graphs.
    """
    nodes = torch.arange(num_nodes, device=edges.device)
    target, source = edges[:, edges[0] != edges[1]]
    keys = torch.cat([target * num_nodes + source, nodes * (num_nodes + 1)]).unique()  # sorted by row
    row, col = keys // num_nodes, keys % num_nodes
    counts = torch.bincount(row, minlength=num_nodes)
    degree = counts.to(torch.get_default_dtype())
    scale = degree.rsqrt() if norm == "sym" else degree.reciprocal()
    values = scale[row] * scale[col] if norm == "sym" else scale[row]
    return csr(F.pad(counts.cumsum(0), (1, 0)), col, values, (num_nodes, num_nodes))


class _Hops(torch.autograd.Function):
    """All hops into one tensor: no autograd node and no copy per hop."""

    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, transposed: Tensor, h: Tensor, hops: int) -> Tensor:
        ctx.transposed = transposed
        stack = h.new_empty(hops + 1, *h.shape)
        stack[0] = h
        for hop in range(hops):
            torch.addmm(stack[hop + 1], adjacency, stack[hop], beta=0, out=stack[hop + 1])
        return stack

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[None, None, Tensor, None]:
        grad = grads[-1]
        for hop in range(len(grads) - 2, -1, -1):
            grad = torch.addmm(grads[hop], ctx.transposed, grad)
        return None, None, grad, None


def propagate(adjacency: Tensor, h: Tensor, hops: int) -> Tensor:
    r"""The representations :math:`[H, AH, \dots, A^K H]`, differentiable in :math:`H`.

    Args:
        adjacency: :math:`(N, N)` constant CSR matrix :math:`A`.
        h: :math:`(N, C)`.
        hops: :math:`K`.

    Returns:
        :math:`(K + 1, N, C)`.
    """
    stack: Tensor = _Hops.apply(adjacency, transpose(adjacency).matrix, h, hops)
    return stack


def pagerank(adjacency: Tensor, h: Tensor, hops: int, share: float) -> Tensor:
    r"""Personalised PageRank by ``hops`` steps of :math:`H_l = (1 - a) A H_{l-1} + a H_0`.

    Args:
        adjacency: :math:`(N, N)` constant CSR matrix :math:`A`.
        h: :math:`(N, C)` start :math:`H_0`.
        hops: Number of steps.
        share: :math:`a`, the weight of the start at every step.
    """
    home = share * h
    for _ in range(hops):
        h = torch.add(home, matmul(adjacency, h), alpha=1 - share)
    return h
