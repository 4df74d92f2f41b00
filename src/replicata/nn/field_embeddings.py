r"""Categorical fields: one embedding table for all, and what models of clicks compute with its rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FieldEmbeddings(nn.Module):
    """One table; each field has a range of its rows.

    Args:
        sizes: Number of values of each of :math:`F` fields.
        dim: Width :math:`D` of an embedding.
        std: Standard deviation of the normal initial values.

    Shapes:
        - input: :math:`(*, F)` values; output: :math:`(*, F, D)`.
    """

    offsets: Tensor

    def __init__(self, sizes: Sequence[int], dim: int, std: float = 0.1) -> None:
        if not sizes or min(*sizes, dim) < 1:
            raise ValueError(f"embeddings: sizes and dim must be positive, got {list(sizes)} and {dim}")
        super().__init__()
        self.num_rows = sum(sizes)
        self.weight = nn.Parameter(torch.randn(self.num_rows, dim) * std)
        self.register_buffer("offsets", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)

    def rows(self, fields: Tensor) -> Tensor:
        """Rows of the table :math:`(*, F)` of the fields' values."""
        return fields + self.offsets

    def forward(self, fields: Tensor) -> Tensor:
        return F.embedding(self.rows(fields), self.weight)


def masked_pool(x: Tensor, mask: Tensor, *, mean: bool = False) -> Tensor:
    """Sum or mean over the steps that count; nothing counts: zero.

    Args:
        x: :math:`(B, T, H)`.
        mask: :math:`(B, T)`, true for steps that count.
        mean: Whether the sum is divided by their number.

    Returns:
        :math:`(B, H)`.
    """
    return weighted_pool(x, mask / mask.sum(1, keepdim=True).clamp_min(1) if mean else mask.to(x.dtype))


def weighted_pool(x: Tensor, weights: Tensor) -> Tensor:
    r""":math:`\sum_t w_{bt} x_{bt}`: weights :math:`(B, T)`, rows :math:`(B, T, H)` to :math:`(B, H)`."""
    return (weights.unsqueeze(1) @ x).squeeze(1)


def second_order(x: Tensor) -> Tensor:
    r"""Factorisation machine's second-order term :math:`\sum_{i<j} \langle x_i, x_j \rangle` in linear time.

    Args:
        x: :math:`(B, F, D)` vectors of the fields.

    Returns:
        :math:`(B)`.
    """
    return (x.sum(1).square() - x.square().sum(1)).sum(1) / 2


def occurrences(rows: Tensor, present: Tensor, num_rows: int) -> Tensor:
    """In how many examples each row of a table occurs; twice in one example counts once.

    Args:
        rows: :math:`(B, K)` row numbers.
        present: :math:`(B, K)`, false for those that do not count (padding).
        num_rows: Rows of the table.
    """
    example = torch.arange(len(rows), device=rows.device).unsqueeze(1)
    once = (example * num_rows + rows)[present].unique()
    return torch.bincount(once % num_rows, minlength=num_rows)


def row_penalty(weight: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    r"""Mini-batch aware L2: :math:`\sum_j \|w_j\|^2 / n_j` over the distinct rows that occur in a batch.

    Summed over batches that hold each row :math:`n_j` times in all, it is :math:`\|W\|^2`. Only these rows get
    a gradient.

    Args:
        weight: Table :math:`(N, D)`.
        rows: Row numbers, any shape.
        counts: :math:`n_j`, :math:`(N)`.
    """
    distinct = rows.unique()
    return (F.embedding(distinct, weight).square().sum(1) / counts[distinct]).sum()
