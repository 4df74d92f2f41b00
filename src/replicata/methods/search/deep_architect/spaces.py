"""The paper's convolutional space, with its domains as arguments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from replicata.methods.search.deep_architect.language import (
    Affine,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2D,
    Dropout,
    Module,
    ReLU,
    RepeatTied,
    maybe_swap,
    optional,
)


def deepconv(
    num_classes: int,
    *,
    filters: Sequence[int],
    reduction_sizes: Sequence[int],
    sizes: Sequence[Sequence[int]],
    keeps: Sequence[float],
    repeats: Sequence[int],
    pool: int = 1,
) -> Module:
    """Twice a convolution of stride 2 and a column of equal blocks; the second column is twice as wide.

    Args:
        num_classes: Units of the last layer.
        filters: Filters of both strided convolutions and of the first column.
        reduction_sizes: Sizes of the strided convolutions.
        sizes: Sizes of the blocks' convolutions, by column.
        keeps: Probabilities of dropout, which is optional.
        repeats: Blocks in a column.
        pool: Averages over windows of this side before all else; 1: none. Not in the paper.
    """
    if len(sizes) != 2:
        raise ValueError(f"method.space.sizes must be two lists, one for each column, got {list(sizes)}")
    if pool < 1:
        raise ValueError(f"method.space.pool must be at least 1, got {pool}")

    def column(filters: Sequence[int], sizes: Sequence[int]) -> Module:
        block = [Conv2D(filters, sizes), maybe_swap(ReLU(), BatchNorm()), optional(Dropout(keeps))]
        return RepeatTied(Concat(block), repeats)

    front: list[Module] = [AvgPool([pool], [pool])] if pool > 1 else []
    return Concat(
        [
            *front,
            Conv2D(filters, reduction_sizes, [2]),
            column(filters, sizes[0]),
            Conv2D(filters, reduction_sizes, [2]),
            column([2 * n for n in filters], sizes[1]),
            Affine([num_classes]),
        ]
    )


def logarithmic(first: float, last: float, n: int) -> list[float]:
    """``n`` values from ``first`` to ``last`` in equal ratios."""
    return np.geomspace(first, last, n).tolist()
