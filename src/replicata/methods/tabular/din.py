r"""DIN: Deep Interest Network for Click-Through Rate Prediction.

Zhou, Zhu, Song, Fan, Zhu, Ma, Yan, Jin, Li, Gai, KDD 2018. https://arxiv.org/abs/1706.06978
Official code: https://github.com/zhougr1993/DeepInterestNetwork, refactored in https://github.com/mouna99/dien

A model of clicks usually sums the embeddings of what a user did before into one vector, the same for all candidates.
DIN weights each behaviour by its relevance to the candidate, so that the user vector changes with it. Two aids come
with it: mini-batch aware L2, which regularises only the embeddings that a batch reads, and Dice, an activation whose
kink follows the data (:class:`~replicata.nn.dice.Dice`).

.. math::
    v_U(A) &= \sum_{t=1}^{T} a(e_t, v_A)\, e_t                                              \quad (1)\\
    a(e, v) &= \mathrm{FC}_1\big(f(\mathrm{FC}_{36}([v,\, e,\, v - e,\, v \odot e]))\big)   \quad (2)\\
    \hat y &= \sigma\big(\mathrm{MLP}([v_U(A),\, v_A])\big)                                 \quad (3)\\
    L &= \frac{1}{|B|} \sum_{i \in B} \mathrm{CE}(\hat y_i, y_i)
        + \frac{\lambda}{2} \sum_{j \in B} \frac{\|w_j\|^2}{n_j}                            \quad (4)

In (2), :math:`f` is PReLU or Dice. The weights are not normalised: their sum stands for the strength of the
interest. Nor is their sign determined: with :math:`-a` and the MLP's weights of :math:`v_U` negated, the model is the
same. In (4), :math:`j` runs over the distinct embedding rows that batch :math:`B` reads, and :math:`n_j` is the
number of training examples that read row :math:`j`; over an epoch in which each row meets :math:`n_j` batches, the
penalties sum to :math:`\frac{\lambda}{2} \|W\|^2`.

Embeddings and MLP are the paper's base model, :class:`~replicata.models.ctr.base_model.BaseModel`, which all arms
share; with :math:`a = 1` DIN is that model.

Departures: one logit with a sigmoid stands for its two with a softmax. Padded steps are left out of (2) altogether, so
they do not enter Dice's statistics either. ``normalise`` follows the authors' code instead of the paper: scores divided
by :math:`\sqrt H`, softmax over the behaviours. The code's product of user and candidate in the MLP's input is in no
arm: it hands any base model a count of matches. The code's batch normalisation, by which candidate and negative were
normalised apart, is not repeated; the authors corrected their Amazon figures for it.
Sources of defaults: unit width 36, PReLU, MLP [user, candidate] from the paper; 12 dimensions for each of item and
category, widths 80 and 40 are those of a small study, ours. The formulas of (4) and Dice are from the paper's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from replicata.data.loaders import Batch
from replicata.data.module import take
from replicata.models.ctr.base_model import BaseModel
from replicata.nn.field_embeddings import occurrences, row_penalty, weighted_pool
from replicata.nn.tower import ChannelActivation, tower
from replicata.tasks.scoring import Scoring

RANKS = range(1, 5)  # of a user's interests in the table of activations
SHOWN = 500  # test examples that it is averaged over


class DIN(Scoring):
    r"""A base model whose history is pooled by relevance to the candidate.

    Metrics:
        - ``test/act_gap``: mean weight of behaviours in the candidate's category (the last field) minus that of the
          others, over clicked test examples.
        - ``test/act_size_gap``: the same of the weights' sizes, which do not depend on their common sign.

    It records the table ``interests``: mean ``weight`` of the behaviours that belong to a user's first, second, ...
    most frequent category, for candidates taken from each of these categories and for candidates of ``no interest``.

    Args:
        unit_widths: Hidden widths of the activation unit, Eq. (2). Paper: 36.
        activation: ``prelu`` or ``dice``, in the unit; the MLP has that of the model.
        normalise: Softmax over the behaviours, as in the authors' code; the paper does without.
        mba: :math:`\lambda \ge 0` of Eq. (4). Paper: 0.01 on Alibaba's data.
        **task: See :class:`~replicata.tasks.scoring.Scoring`; ``model`` is a
            :class:`~replicata.models.ctr.base_model.BaseModel`.

    Shapes:
        - ``batch["history"]``: :math:`(B, T, F)`; ``batch["history_mask"]``: :math:`(B, T)`, false where padded;
          ``batch["candidate"]``: :math:`(B, F)`; ``batch["y"]``: :math:`(B)`.

    Raises:
        ValueError: if ``mba`` is negative.
    """

    inputs: ClassVar[frozenset[str]] = Scoring.inputs | {"history", "history_mask", "candidate"}
    model: BaseModel
    occurrences: Tensor

    def __init__(
        self,
        unit_widths: Sequence[int] = (36,),
        activation: ChannelActivation = "prelu",
        normalise: bool = False,
        mba: float = 0.0,
        **task: Any,
    ) -> None:
        if mba < 0:
            raise ValueError(f"method.mba must be >= 0, got {mba}")
        super().__init__(**task)
        self.unit = tower(4 * self.model.width, unit_widths, 1, activation)
        self.normalise, self.mba = normalise, mba
        if mba:
            self.register_buffer("occurrences", torch.zeros(self.model.embeddings.num_rows, dtype=torch.long))
        # Mean weights and sizes of weights of behaviours whose category is the candidate's, and of others.
        self.same, self.other, self.same_size, self.other_size = (MeanMetric() for _ in range(4))

    # Eqs. (1) to (3) -----------------------------------------------------------------------

    def score(self, batch: Batch) -> Tensor:
        history, candidate = self.model.embed(batch)
        weights = self.weights(history, batch["history_mask"], candidate)
        return self.model.predict(weighted_pool(history, weights), candidate)  # Eqs. (1) and (3)

    def weights(self, history: Tensor, mask: Tensor, candidate: Tensor) -> Tensor:
        """Eq. (2): weights :math:`(B, T)` of behaviours :math:`(B, T, H)` for candidates :math:`(B, H)`."""
        e, v = history[mask], candidate.unsqueeze(1).expand_as(history)[mask]
        scores = self.unit(torch.cat([v, e, v - e, v * e], 1)).squeeze(1)
        if not self.normalise:
            return torch.zeros_like(mask, dtype=scores.dtype).masked_scatter(mask, scores)
        lowest = torch.full_like(mask, torch.finfo(scores.dtype).min, dtype=scores.dtype)
        scores = lowest.masked_scatter(mask, scores / history.shape[2] ** 0.5)
        return scores.softmax(1) * mask  # a user without behaviours gets no weight at all

    # Eq. (4) -------------------------------------------------------------------------------

    def regulariser(self, batch: Batch) -> Tensor | None:
        if not self.mba:
            return None
        rows, present = self.model.rows(batch)
        return self.mba / 2 * row_penalty(self.model.embeddings.weight, rows[present], self.occurrences)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.mba and stage == "fit":
            self.occurrences.zero_()
            for batch in examples(self.trainer.datamodule, "train"):  # type: ignore[attr-defined]
                self.occurrences += occurrences(*self.model.rows(batch), len(self.occurrences))

    # What is measured ----------------------------------------------------------------------

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        history, candidate = self.model.embed(batch)
        weights = self.weights(history, batch["history_mask"], candidate)
        clicked = batch["history_mask"] & (batch["y"] == 1).unsqueeze(1)
        same = batch["history"][..., -1] == batch["candidate"][:, None, -1]
        for which, mean, size in (
            (clicked & same, self.same, self.same_size),
            (clicked & ~same, self.other, self.other_size),
        ):
            mean.update(weights[which])
            size.update(weights[which].abs())
        if batch_idx == 0:
            self.record("interests", self.describe({name: column[:SHOWN] for name, column in batch.items()}))

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        gaps = {
            "test/act_gap": self.same.compute() - self.other.compute(),
            "test/act_size_gap": self.same_size.compute() - self.other_size.compute(),
        }
        self.log_dict(gaps, sync_dist=False, rank_zero_only=False)

    def describe(self, batch: Batch) -> list[dict[str, float | str]]:
        """Mean weights by the interest that candidate and behaviour belong to: 1 is the most frequent category."""
        history, mask, own = batch["history"], batch["history_mask"], batch["candidate"]
        interest = interests(history[..., -1], mask)
        candidates = {f"interest {k}": ((interest == k).any(1), latest(history, interest == k)) for k in RANKS}
        foreign = ~((history[..., -1] == own[:, None, -1]) & mask).any(1)
        rows: list[dict[str, float | str]] = []
        for name, (users, items) in (candidates | {"no interest": (foreign, own)}).items():
            embedded, candidate = self.model.embed({"history": history[users], "candidate": items[users]})
            weights = self.weights(embedded, mask[users], candidate)
            for k in RANKS:
                found = weights[interest[users] == k]
                if len(found):
                    rows.append({"candidate": name, "behaviour": f"interest {k}", "weight": float(found.mean())})
        return rows


def interests(category: Tensor, mask: Tensor) -> Tensor:
    """Rank of each behaviour's category by its frequency in the history, from 1; 0 where padded.

    Categories of equal frequency are ranked by number.

    Args:
        category: :math:`(B, T)`.
        mask: :math:`(B, T)`, false where padded.
    """
    alike = (category.unsqueeze(2) == category.unsqueeze(1)) & mask.unsqueeze(1) & mask.unsqueeze(2)
    earlier = torch.ones(category.shape[1], category.shape[1], device=category.device).tril(-1).bool()
    first = mask & ~(alike & earlier).any(2)
    key = alike.sum(2) * (int(category.max()) + 1) - category  # frequent first, then by number
    above = (key.unsqueeze(1) > key.unsqueeze(2)) & first.unsqueeze(1)
    return (above.sum(2) + 1) * mask


def latest(history: Tensor, which: Tensor) -> Tensor:
    """The first step of each history :math:`(B, T, F)` that ``which`` :math:`(B, T)` marks: :math:`(B, F)`."""
    return history[torch.arange(len(history), device=history.device), which.int().argmax(1)]


def examples(data: Any, split: str, size: int = 8192) -> Iterator[Batch]:
    """All examples of a split, in order, in batches as models see them."""
    columns = data.splits[split]
    for rows in torch.arange(len(columns["y"])).split(size):
        yield data.transform(take(columns, rows))


def overfitting(run: Mapping[str, Any]) -> float:
    """Derived column: AUC on the training users minus AUC on the validation users, after the last epoch."""
    train, val = (run["curves"][f"{split}/auc"][-1][2] for split in ("train", "val"))
    return train - val
