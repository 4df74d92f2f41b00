"""Subsets and corruptions of splits in memory, for any data module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from replicata.streams import Stream

Split = dict[str, Tensor]


def keep_classes(split: Split, classes: Sequence[int], label: str = "y") -> Split:
    """The rows of some classes, relabelled ``0, 1, ...`` in the order given.

    Raises:
        ValueError: if a class is named twice, or has no rows.
    """
    if len(set(classes)) != len(classes):
        raise ValueError(f"data.classes must differ, got {list(classes)}")
    matches = split[label][:, None] == torch.tensor(list(classes))
    missing = [c for c, found in zip(classes, matches.any(0).tolist(), strict=True) if not found]
    if missing:
        raise ValueError(f"data.classes: there are no rows of {missing}; there are {split[label].unique().tolist()}")
    rows = matches.any(1)
    kept = {name: column[rows] for name, column in split.items()}
    return kept | {label: matches[rows].long().argmax(1)}


def flip_labels(labels: Tensor, rate: float, num_classes: int, stream: Stream) -> Tensor:
    """Labels :math:`(N)` of which each is replaced, with probability ``rate``, by a different class drawn uniformly.

    A longer split begins with the same flips as a shorter one from the same stream.
    """
    draws = torch.from_numpy(stream.numpy.random((len(labels), 2)))
    other = 1 + (draws[:, 1] * (num_classes - 1)).long()
    return torch.where(draws[:, 0] < rate, (labels + other) % num_classes, labels)
