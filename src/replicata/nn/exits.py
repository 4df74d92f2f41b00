"""Where confidences stop a network with early exits."""

from __future__ import annotations

import torch
from torch import Tensor


def exit_paths(confidence: Tensor, threshold: Tensor | float) -> Tensor:
    r"""The path of each image: its first exit with enough confidence, else :math:`E` plus its most confident one.

    Args:
        confidence: Of each exit, :math:`(E, B)`.
        threshold: From which on an exit is taken.

    Returns:
        :math:`(B)` in :math:`0 \ldots 2E - 1`.
    """
    enough = confidence >= threshold
    first = enough.int().argmax(0)  # of equals the first
    return torch.where(enough.any(0), first, len(confidence) + confidence.argmax(0))


def largest_share(paths: Tensor) -> float:
    """Share of the inputs on the path that most of them take, of path numbers :math:`(B)`."""
    return float(paths.unique(return_counts=True)[1].max()) / len(paths)


def balanced_threshold(confidence: Tensor, candidates: int = 199) -> float:
    """The quantile of all confidences :math:`(E, B)` that, as the threshold, has the smallest largest share."""
    levels = torch.linspace(0, 1, candidates + 2, dtype=confidence.dtype)[1:-1]
    thresholds = confidence.flatten().quantile(levels)
    shares = [largest_share(exit_paths(confidence, threshold)) for threshold in thresholds]
    return float(thresholds[min(range(candidates), key=shares.__getitem__)])
