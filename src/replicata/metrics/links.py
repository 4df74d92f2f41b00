"""Scores of a ranking of links above non-links.

All compare positives with one shared pool of negatives. Scores may have any scale: only their order counts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities import dim_zero_cat


class LinkRanking(Metric):
    """Collects scores :math:`(B)` and labels :math:`(B)`, 1 for a link and 0 for a non-link."""

    full_state_update = False
    higher_is_better = True
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **metric: Any) -> None:
        super().__init__(**metric)
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self.scores.append(scores)
        self.labels.append(labels)

    def compute(self) -> Tensor:
        return self.score(dim_zero_cat(self.scores), dim_zero_cat(self.labels))

    def score(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The value over everything collected."""
        raise TypeError(f"{type(self).__name__} does not say what its value is: implement score()")


class HitsAt(LinkRanking):
    """The share of the links that score above the K-th best non-link; a tie with it is a miss.

    With fewer than K non-links every link counts, as in the evaluator of the Open Graph Benchmark.

    Args:
        k: K.
    """

    def __init__(self, k: int, **metric: Any) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        super().__init__(**metric)
        self.k = k

    def score(self, scores: Tensor, labels: Tensor) -> Tensor:
        links, others = scores[labels == 1], scores[labels == 0]
        if len(others) < self.k:
            return torch.ones((), device=scores.device)
        return (links > others.topk(self.k).values[-1]).float().mean()


class MeanReciprocalRank(LinkRanking):
    """The mean of one over a link's rank among all non-links; tied ones count half."""

    def score(self, scores: Tensor, labels: Tensor) -> Tensor:
        links, others = scores[labels == 1], scores[labels == 0].sort().values
        above = len(others) - torch.searchsorted(others, links, right=True)
        reached = len(others) - torch.searchsorted(others, links)
        return (1 + (above + reached) / 2).reciprocal().mean()


class LinkAUC(LinkRanking):
    """The share of (link, non-link) that are in order; a tie counts half."""

    def score(self, scores: Tensor, labels: Tensor) -> Tensor:
        return binary_auroc(_ranks(scores), labels)


class LinkAP(LinkRanking):
    """Average precision."""

    def score(self, scores: Tensor, labels: Tensor) -> Tensor:
        return binary_average_precision(_ranks(scores), labels)


def _ranks(scores: Tensor) -> Tensor:
    """Dense ranks in (0, 1]: torchmetrics squashes what lies outside in single precision, which makes new ties."""
    values, ranks = scores.unique(return_inverse=True)
    return (ranks + 1) / len(values)
