r"""DAGNN: Towards Deeper Graph Neural Networks.

Liu, Gao, Ji, KDD 2020. https://arxiv.org/abs/2007.09296, code: https://github.com/mengliu1998/DeeperGNN

Deep graph networks fail mostly because every propagation is tied to a transformation. Here an MLP makes one
class-sized embedding per node, parameter-free propagation turns it into :math:`K + 1` views with growing
receptive fields, and each node weighs its views by scores of one small shared projection.

.. math::
    Z &= \mathrm{MLP}(X)                                                                \quad (1)\\
    H_l &= \hat A H_{l-1}, \quad H_0 = Z, \quad
        \hat A = \tilde D^{-1/2} (A + I) \tilde D^{-1/2}                                \quad (2)\\
    S &= \sigma(H s + b), \quad H = [H_0, \dots, H_K]                                   \quad (3)\\
    Y_i &= \sum_{l=0}^{K} S_{il} \, H_{l,i}                                             \quad (4)

The scores are sigmoids, not a softmax over hops, so a node may keep much or little of everything. The loss is
the cross-entropy of :math:`\mathrm{softmax}(Y)` on the labelled nodes.

Training follows the authors' code: full batch, Adam with weight decay on all parameters, the test at the epoch of
the lowest validation loss. Its early stopping is the callback of the experiment.

Departures: none in the method. The bias :math:`b` is in the code, not in the paper's formula. :class:`Nodes` normalises
the adjacency; the dropout and the two layers of Eq. (1) are those of :class:`~replicata.models.graph.mlp.MLP`, which
stays a model because the baselines share it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.metrics.smoothness import smoothness
from replicata.nn.propagation import propagate
from replicata.tasks.nodes import Nodes


class DAGNN(Nodes):
    r"""Adaptive sum over the propagated outputs of a node-wise model.

    Args:
        hops: Number :math:`K \ge 0` of propagations. The authors' code: 10 on Cora and CiteSeer, 20 on PubMed,
            5 on the co-author and co-purchase graphs.
        adaptive: Whether Eqs. (3) and (4) are used; without them the output is :math:`H_K`, the paper's model
            of decoupling alone.
        **task: See :class:`~replicata.tasks.nodes.Nodes`; ``model`` is the MLP of Eq. (1).

    Shapes:
        - ``batch["x"]``: :math:`(N, F)`; output :math:`(N, C)`.

    Raises:
        ValueError: if ``hops`` is negative.
    """

    def __init__(self, hops: int = 10, adaptive: bool = True, **task: Any) -> None:
        if hops < 0:
            raise ValueError(f"method.hops must be >= 0, got {hops}")
        super().__init__(**task)
        self.hops = hops
        self.projection = nn.Linear(self.num_classes, 1) if adaptive else None  # one s and b for all nodes and hops

    def forward(self, batch: Batch) -> Tensor:
        z = self.model(batch["x"], batch["adj"])  # Eq. (1)
        views = propagate(batch["adj"], z, self.hops)  # Eq. (2): (K + 1, N, C)
        return self.combine(views)

    def combine(self, views: Tensor) -> Tensor:
        """Eqs. (3) and (4): views :math:`(K + 1, N, C)` to outputs :math:`(N, C)`."""
        if self.projection is None:
            return views[-1]
        return (self.scores(views).unsqueeze(2) * views).sum(0)  # Eq. (4)

    def scores(self, views: Tensor) -> Tensor:
        """Eq. (3): the retainment scores :math:`(K + 1, N)` of views :math:`(K + 1, N, C)`."""
        assert self.projection is not None
        return self.projection(views).sigmoid().squeeze(2)

    def network(self) -> tuple[str, int]:
        return "decoupled" if self.projection is None else "DAGNN", self.hops

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        graph = self.graph(batch)
        views = propagate(graph["adj"], self.model(graph["x"], graph["adj"]), self.hops)
        self.record("hops", self.describe(views))

    def describe(self, views: Tensor) -> list[dict[str, float]]:
        """One row per hop: the spread of the retainment scores over nodes; on request the smoothness of some views."""
        rows: list[dict[str, float]] = [{"hop": hop} for hop in range(len(views))]
        for hop, row in enumerate(rows):
            power = hop & (hop - 1) == 0  # 0, 1, 2, 4, 8, ...: all pairs of nodes take a while
            if self.smoothness and (power or hop == self.hops):
                row["smv"] = float(smoothness(views[hop]).mean())
        if self.projection is not None:
            scores = self.scores(views)
            shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], device=scores.device)
            columns = [*scores.quantile(shares, dim=1).tolist(), scores.mean(1).tolist()]
            names = ("q05", "q25", "median", "q75", "q95", "mean")
            for row, *values in zip(rows, *columns, strict=True):
                row |= dict(zip(names, values, strict=True))
        return rows
