"""Retrieval across two sides: recall at K and ranks, both ways, where one thing may have several right answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def gold_ranks(similarity: Tensor, gold: Tensor) -> Tensor:
    """The rank, from 1, of each query's best right answer; a wrong one with the same score comes before it.

    Args:
        similarity: :math:`(Q, A)`, queries by answers.
        gold: :math:`(Q, A)`, which answers are right; each query has one at least.

    Returns:
        :math:`(Q)`.
    """
    best = similarity.masked_fill(~gold, -torch.inf).amax(1, keepdim=True)
    return 1 + ((similarity >= best) & ~gold).sum(1)


class Retrieval(Metric):
    """Images find texts and texts find images by their cosine; right is what has the same key.

    ``compute`` returns ``r@K_i2t``, ``r@K_t2i`` and their mean ``mean_r@K`` for every K, and ``meanrank_i2t``,
    ``meanrank_t2i``.

    Args:
        ks: The Ks.
    """

    full_state_update = False
    image: list[Tensor]
    text: list[Tensor]
    image_key: list[Tensor]
    text_key: list[Tensor]

    def __init__(self, ks: Sequence[int] = (1, 5, 10)) -> None:
        super().__init__()
        self.ks = tuple(ks)
        for state in ("image", "text", "image_key", "text_key"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, image: Tensor, text: Tensor, image_key: Tensor, text_key: Tensor) -> None:
        """Add unit vectors :math:`(n, D)`, :math:`(m, D)` and their keys :math:`(n)`, :math:`(m)`."""
        self.image.append(image)
        self.text.append(text)
        self.image_key.append(image_key)
        self.text_key.append(text_key)

    def compute(self) -> dict[str, Tensor]:
        similarity = dim_zero_cat(self.image) @ dim_zero_cat(self.text).t()
        gold = dim_zero_cat(self.image_key)[:, None] == dim_zero_cat(self.text_key)
        ranks = {"i2t": gold_ranks(similarity, gold), "t2i": gold_ranks(similarity.t(), gold.t())}
        values = {f"r@{k}_{way}": (rank <= k).float().mean() for k in self.ks for way, rank in ranks.items()}
        values |= {f"mean_r@{k}": (values[f"r@{k}_i2t"] + values[f"r@{k}_t2i"]) / 2 for k in self.ks}
        return values | {f"meanrank_{way}": rank.float().mean() for way, rank in ranks.items()}


def zero_shot_accuracy(image: Tensor, y: Tensor, prompts: Tensor) -> Tensor:
    """The share of images whose nearest prompt is that of their class.

    Args:
        image: Unit vectors :math:`(n, D)`.
        y: Classes :math:`(n)`.
        prompts: Unit vector of each class :math:`(K, D)`.
    """
    return ((image @ prompts.t()).argmax(1) == y).float().mean()
