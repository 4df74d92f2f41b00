r"""Planted interests: clicks that depend on how often the candidate's category occurs in the user's history."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from replicata.data.module import Split, TensorDataModule
from replicata.streams import Stream

MOST = 5  # more behaviours of the candidate's category change nothing


def click_probability(history: Tensor, candidate: Tensor) -> Tensor:
    r""":math:`\sigma(-2 + \min(m, 5))`, with :math:`m` the behaviours of the candidate's category.

    Args:
        history: Categories :math:`(n, T)`.
        candidate: Category :math:`(n)`.
    """
    return ((history == candidate.unsqueeze(1)).sum(1).clamp_max(MOST) - 2.0).sigmoid()


def best_auc(probability: Tensor) -> float:
    r"""AUC that the true probabilities are expected to have on examples with these probabilities: none is better.

    :math:`\sum_{ij} p_i (1 - p_j) \big([p_i > p_j] + \tfrac12 [p_i = p_j]\big) / \sum_{ij} p_i (1 - p_j)`.
    """
    values, which = probability.double().unique(return_inverse=True)
    counts = torch.bincount(which).double()
    clicks, others = counts * values, counts * (1 - values)
    below = others.cumsum(0) - others
    return float((clicks * (below + others / 2)).sum() / (clicks.sum() * others.sum()))


class PlantedInterest(TensorDataModule):
    r"""Users with a few interests of different strength, and candidates that match one of them or none.

    Every example is a user of its own, with ``num_interests`` categories, their strengths from a flat Dirichlet, and a
    history drawn by them. The candidate's category is one of the interests with probability one half, else any.
    A fixed sum of the history's embeddings has to keep a count for every category; a sum that depends on
    the candidate needs one.

    Shapes:
        - ``history``: :math:`(B, T, 2)` item and category; ``history_mask``: :math:`(B, T)`, all true;
          ``candidate``: :math:`(B, 2)`; ``y``: :math:`(B)` clicks.

    Args:
        num_items, num_categories: Items, and their categories, none of them empty.
        num_interests: Interests of a user.
        history: Length :math:`T`.
        n_train, n_val, n_test: Examples to draw.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.

    Attributes:
        notes: ``bayes_auc``, the best AUC to be expected on the test examples.
    """

    def __init__(
        self,
        *,
        num_items: int = 2000,
        num_categories: int = 40,
        num_interests: int = 4,
        history: int = 20,
        n_train: int = 21000,
        n_val: int = 3000,
        n_test: int = 6000,
        **loader: Any,
    ) -> None:
        if not 1 <= num_interests <= num_categories <= num_items:
            raise ValueError(
                "data: num_interests <= num_categories <= num_items must hold,"
                f" got {num_interests}, {num_categories}, {num_items}"
            )
        if min(history, n_train, n_val, n_test) < 1:
            raise ValueError(
                f"data: history, n_train, n_val, n_test must be positive, got {history}, {n_train}, {n_val}, {n_test}"
            )
        super().__init__(**loader)
        self.num_items, self.num_categories, self.num_interests = num_items, num_categories, num_interests
        self.history = history
        self.counts = {"train": n_train, "val": n_val, "test": n_test}
        self.notes: dict[str, float] = {}

    def load(self) -> dict[str, Split]:
        first, *streams = (self.streams.split.at(part) for part in range(4))
        # The first item of each category is given, so that none is empty; the others fall anywhere.
        free = torch.randint(self.num_categories, (self.num_items - self.num_categories,), generator=first.torch)
        category = torch.cat([torch.arange(self.num_categories), free])
        category = category[torch.randperm(self.num_items, generator=first.torch)]
        return {
            name: self._draw(size, category, stream)
            for (name, size), stream in zip(self.counts.items(), streams, strict=True)
        }

    def process(self, splits: dict[str, Split]) -> dict[str, Split]:
        test = splits["test"]
        self.notes["bayes_auc"] = best_auc(click_probability(test["history"][..., 1], test["candidate"][:, 1]))
        return splits

    def _draw(self, size: int, category: Tensor, stream: Stream) -> Split:
        draw = stream.torch
        # Interests: distinct categories. Their strengths: normalised exponentials are a flat Dirichlet.
        interests = torch.rand(size, self.num_categories, generator=draw).topk(self.num_interests).indices
        strength = -torch.rand(size, self.num_interests, generator=draw, dtype=torch.float64).log()
        edges = (strength / strength.sum(1, keepdim=True)).cumsum(1)[:, :-1].contiguous()
        at = torch.rand(size, self.history, generator=draw, dtype=torch.float64)
        behaviours = interests.gather(1, torch.searchsorted(edges, at))
        matched = torch.rand(size, generator=draw) < 0.5
        own = interests[torch.arange(size), torch.randint(self.num_interests, (size,), generator=draw)]
        anything = torch.randint(self.num_categories, (size,), generator=draw)
        candidate = torch.where(matched, own, anything)
        y = torch.rand(size, generator=draw) < click_probability(behaviours, candidate)

        categories = torch.cat([behaviours, candidate.unsqueeze(1)], 1)
        items = self._items(categories, category, torch.rand(categories.shape, generator=draw, dtype=torch.float64))
        pairs = torch.stack([items, categories], 2)
        mask = torch.ones(size, self.history, dtype=torch.bool)
        return {"history": pairs[:, :-1], "history_mask": mask, "candidate": pairs[:, -1], "y": y.long()}

    @staticmethod
    def _items(categories: Tensor, category: Tensor, at: Tensor) -> Tensor:
        """Any item of each category: the ``at``-th part of those it has."""
        by_category = category.argsort(stable=True)
        counts = torch.bincount(category)
        start = counts.cumsum(0) - counts
        return by_category[start[categories] + (at * counts[categories]).long()]
