r"""GAUC: the area under the ROC curve within groups, such as one user's impressions, averaged over groups."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def auc_by_group(scores: Tensor, target: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    r"""AUC of every group that has both classes.

    From the ranks of the positives (Mann-Whitney): :math:`(R_+ - P (P + 1) / 2) / (P N)`, where tied scores share
    their mean rank.

    Args:
        scores, target, group: :math:`(n)`; classes are 0 and 1, groups any integers.

    Returns:
        :math:`(G)` AUCs and the groups' sizes, in double precision.
    """
    groups, member = group.unique(return_inverse=True)
    order = scores.argsort(stable=True)
    order = order[member[order].argsort(stable=True)]
    scores, member, positive = scores[order], member[order], target[order].double()
    sizes = torch.bincount(member, minlength=len(groups)).double()
    # Ties: neighbours in this order with one score and one group. Their mean rank, counted through all groups:
    new = torch.ones_like(member, dtype=torch.bool)
    new[1:] = (scores[1:] != scores[:-1]) | (member[1:] != member[:-1])
    tie = new.cumsum(0) - 1
    counts = torch.bincount(tie).double()
    rank = (counts.cumsum(0) - (counts - 1) / 2)[tie] - (sizes.cumsum(0) - sizes)[member]
    zeros = torch.zeros_like(sizes)
    positives = zeros.index_add(0, member, positive)
    ranks = zeros.index_add(0, member, positive * rank)
    pairs = positives * (sizes - positives)
    both = pairs > 0
    return ((ranks - positives * (positives + 1) / 2) / pairs)[both], sizes[both]


class GroupAUC(Metric):
    r"""GAUC :math:`= \sum_g n_g \mathrm{AUC}_g / \sum_g n_g` over the groups that have both classes.

    :math:`n_g` is the group's number of examples (impressions). NaN where no group has both classes.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    scores: list[Tensor]
    target: list[Tensor]
    group: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("scores", "target", "group"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, target: Tensor, group: Tensor) -> None:
        self.scores.append(scores.detach())
        self.target.append(target)
        self.group.append(group)

    def compute(self) -> Tensor:
        auc, sizes = auc_by_group(*(dim_zero_cat(state) for state in (self.scores, self.target, self.group)))
        return ((auc * sizes).sum() / sizes.sum()).float()
