"""TreeEnsemble: a sum of trees that grows by a step of gradient descent at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.nn.histogram_trees import Score, Spacing, Tree, cut, grow, leaf_numbers

CHUNK = 2**20  # rows times trees that are read at once


class TreeEnsemble(nn.Module):
    r"""Gradient-boosted trees with :math:`D` outputs, :math:`F(x) = -\sum_k \eta_k \odot w_{k, \mathrm{leaf}_k(x)}`.

    A tree is fitted to gradients of a loss by the outputs, one row an example: leaves hold their means, so that adding
    :math:`-\eta` times the tree is a step of gradient descent in the space of functions. There is no second order, no
    regularisation and no first fit. With ``score=l2`` questions are chosen by gradients that are standardised per
    output; leaves hold the raw ones all the same.

    Args:
        outputs: :math:`D`.
        depth: Levels of questions in a tree.
        oblivious: Whether all nodes of a level share a question.
        score: ``cosine`` or ``l2``, see :mod:`~replicata.nn.histogram_trees`.
        n_bins: Most questions of a feature of numbers.
        spacing: ``quantile`` or ``uniform``, of these questions over the rows at hand.
        words: Whether the features are words, that are asked for equality: one answer, or one for each feature.

    Shapes:
        - input: :math:`(n, F)`, words by number; output: :math:`(n, D)`.

    Raises:
        ValueError: for a size out of range, by its name in ``model``.
    """

    features: Tensor
    values: Tensor
    leaves: Tensor
    offsets: Tensor

    def __init__(
        self,
        outputs: int,
        *,
        depth: int = 4,
        oblivious: bool = True,
        score: Score = "cosine",
        n_bins: int = 256,
        spacing: Spacing = "quantile",
        words: bool | Sequence[bool] = False,
    ) -> None:
        for name, value, least in (("outputs", outputs, 1), ("depth", depth, 0), ("n_bins", n_bins, 1)):
            if value < least:
                raise ValueError(f"model.{name} must be at least {least}, got {value}")
        if score not in ("cosine", "l2"):
            raise ValueError(f"model.score must be cosine or l2, got {score!r}")
        if spacing not in ("quantile", "uniform"):
            raise ValueError(f"model.spacing must be quantile or uniform, got {spacing!r}")
        super().__init__()
        self.outputs, self.depth, self.oblivious, self.words = outputs, depth, oblivious, words
        self.score, self.n_bins, self.spacing = score, n_bins, spacing
        questions = depth if oblivious else 2**depth - 1
        self.trees = 0
        self.register_buffer("features", torch.empty(0, questions, dtype=torch.long))
        self.register_buffer("values", torch.empty(0, questions))
        self.register_buffer("leaves", torch.empty(0, 2**depth, outputs))
        self.register_buffer("offsets", torch.empty(0, 1, dtype=torch.long), persistent=False)  # of each tree's leaves

    def __len__(self) -> int:
        return self.trees

    @property
    def nbytes(self) -> int:
        """Bytes of the trees' questions (number of the feature and value, four each) and leaves."""
        return self.trees * 4 * (2 * self.features.shape[1] + self.leaves.shape[1] * self.outputs)

    def boost(self, x: Tensor, gradients: Tensor, rates: Tensor) -> None:
        """Add a tree.

        Args:
            x: :math:`(n, F)`.
            gradients: Of each row's own loss by its outputs, :math:`(n, D)`.
            rates: :math:`\\eta`, :math:`(D)`.
        """
        chosen = gradients
        if self.score == "l2":
            deviation = gradients.std(0)
            chosen = (gradients - gradients.mean(0)) / torch.where(deviation > 0, deviation, 1.0)
        words = torch.as_tensor(self.words, device=x.device).expand(x.shape[1])
        bins = cut(x, words, self.n_bins, self.spacing, gradients.square().sum(1))
        grown = grow(bins, chosen, depth=self.depth, oblivious=self.oblivious, score=self.score, leaf_rows=gradients)
        self.add(grown, rates)

    def add(self, tree: Tree, rates: Tensor) -> None:
        """Add :math:`-\\eta` times a tree."""
        if self.trees == len(self.leaves):
            self._make_room(max(64, 2 * self.trees))
        self.features[self.trees] = tree.features
        self.values[self.trees] = tree.values
        self.leaves[self.trees] = -rates * tree.leaves
        self.trees += 1

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """The sum of the trees from number ``first`` on."""
        words = self.words if isinstance(self.words, bool) else torch.as_tensor(self.words, device=x.device)
        size = max(1, CHUNK // max(1, len(x)))
        sums = []
        for start in range(first, self.trees, size):
            part = slice(start, min(start + size, self.trees))
            leaf = leaf_numbers(x, self.features[part], self.values[part], words, self.depth)
            leaf += self.offsets[: len(leaf)]
            sums.append(F.embedding_bag(leaf.T.contiguous(), self.leaves[part].flatten(0, 1), mode="sum"))
        if len(sums) == 1:
            return sums[0]
        return torch.stack(sums).sum(0) if sums else x.new_zeros(len(x), self.outputs)

    # Buffers have room for more trees than there are; a checkpoint holds those that are.

    def _make_room(self, trees: int) -> None:
        for name in ("features", "values", "leaves"):
            old = getattr(self, name)
            new = old.new_zeros(trees, *old.shape[1:])
            new[: self.trees] = old[: self.trees]
            setattr(self, name, new)
        self.offsets = torch.arange(trees, device=self.leaves.device).unsqueeze(1) * self.leaves.shape[1]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in ("features", "values", "leaves"):
            destination[prefix + name] = getattr(self, name)[: self.trees].clone()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        self.trees = 0
        self._make_room(len(state_dict[prefix + "leaves"]))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.trees = len(self.leaves)
