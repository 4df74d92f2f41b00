r"""NCN: Neural Common Neighbor with Completion for Link Prediction.

Wang, Yang, Zhang, ICLR 2024. https://arxiv.org/abs/2302.00890,
code: https://github.com/GraphPKU/NeuralCommonNeighbor

A graph network that scores a link from two node vectors cannot see which neighbours the two nodes share. NCN runs the
network once and then sums its vectors over the common neighbours of the pair, a learnable form of the heuristics CN,
AA and RA. NCNC first completes the graph: a node that is linked to only one of the two counts with the probability
that NCN gives to the missing link.

.. math::
    h &= \mathrm{MPNN}(A, X), \qquad x_u = h_u + \mathrm{XLIN}(h_u)                                       \quad (1)\\
    s_{ij} &= \sum_{u \in N(i) \cap N(j)} x_u                                                            \quad (2)\\
    f_{ij} &= \mathrm{OUT}\bigl(\mathrm{IJLIN}(h_i \odot h_j) + \beta \, \mathrm{CNLIN}(s_{ij})\bigr)    \quad (3)\\
    s_{ij} &= \sum_{u \in N(i) \cap N(j)} x_u + \sum_{u \in N(i) \setminus N(j)} P_{ju} \, x_u
              + \sum_{u \in N(j) \setminus N(i)} P_{iu} \, x_u                                           \quad (4)\\
    P_{ju} &= \frac{\alpha \, p_t \, p_0}{p_t \, p_0 + 1 - p_0}, \quad
              p_0 = \sigma\bigl(\mathrm{scale} \, (f_{ju} - \mathrm{offset})\bigr)                       \quad (5)

:math:`f_{ju}` comes from the same weights with one completion less, and no gradient flows through it. In training, the
links of a batch are removed from :math:`A` for Eqs. (1), (2) and (4) alike (:class:`~replicata.tasks.links.Links`).

Departures: none in the equations. The authors' code hands :math:`x` instead of :math:`h` to the inner call of Eq. (5),
so that XLIN acts twice; here it gets :math:`h`, as the equations have it. Its sampling of the nodes in Eq. (4), for
graphs of millions of links, is left out: all of them count. Where it drops links for the sums, it drops them again in
the inner call; here once. A missing link that several pairs of a batch ask for is scored once, so that its dropout is
one draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.nn.neighbours import Members, Neighbours, pool
from replicata.tasks.link_heuristic import LinkHeuristic
from replicata.tasks.links import Links, adjacency


class Encoded(NamedTuple):
    """Node vectors :math:`h` :math:`(N, C)` and the neighbours in the graph that they come from."""

    h: Tensor
    neighbours: Neighbours


class NCN(Links):
    r"""Neural Common Neighbor, its completion, and what the paper takes away from them.

    Args:
        hidden: Width :math:`C` of node vectors and of all layers of the predictor.
        pooling: What CNLIN of Eq. (3) sees of the common neighbours: their ``vectors`` (NCN), their ``count``
            (GAE+CN in the paper), or ``none``, which leaves the term out (GAE).
        completion: How often Eq. (4) is nested; 0 is NCN, 1 is NCNC, 2 is NCNC-2.
        extra: A term of Eq. (3) beside CNLIN, through an MLP of its own, over ``difference``: all neighbours of one
            of the two alone (NCN-diff); or ``walks``: :math:`N(i) \cap N_2(j)` and :math:`N_2(i) \cap N(j)`, with
            :math:`N_2` the ends of walks of length two (NCN2).
        dropout: After every linear layer of the predictor but the last.
        edge_dropout: Share of the entries of :math:`A` left out of the sums in training.
        blocks: Hidden blocks of OUT; the authors' code has 2 for CiteSeer.
        scale, offset, prior, alpha: Eq. (5); ``prior`` is :math:`p_t`. The defaults are those of the authors' code.
        **task: See :class:`~replicata.tasks.links.Links`; ``model`` is the MPNN of Eq. (1).

    Shapes:
        - ``batch["x"]``: :math:`(N, F)`; ``batch["graph"]``: :math:`(2, E)`; pairs: :math:`(B, 2)`.
    """

    def __init__(
        self,
        hidden: int,
        *,
        pooling: Literal["vectors", "count", "none"] = "vectors",
        completion: int = 0,
        extra: Literal["difference", "walks"] | None = None,
        dropout: float = 0.05,
        edge_dropout: float = 0.0,
        blocks: int = 1,
        scale: float = 5.0,
        offset: float = 3.0,
        prior: float = 0.5,
        alpha: float = 1.0,
        **task: Any,
    ) -> None:
        if pooling not in ("vectors", "count", "none"):
            raise ValueError(f"method.pooling must be vectors, count or none, got {pooling!r}")
        if extra not in (None, "difference", "walks"):
            raise ValueError(f"method.extra must be difference, walks or null, got {extra!r}")
        if completion < 0 or blocks < 1:
            raise ValueError(f"method: completion must be >= 0 and blocks >= 1, got {completion} and {blocks}")
        if pooling != "vectors" and (completion or extra):
            raise ValueError(f"method.pooling={pooling} has no completion and no extra term")
        for name, value in (("dropout", dropout), ("edge_dropout", edge_dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"method.{name} must be in [0, 1), got {value}")
        if not (0 < prior <= 1 and alpha > 0):
            raise ValueError(f"method: prior must be in (0, 1] and alpha > 0, got {prior} and {alpha}")
        super().__init__(**task)
        self.pooling, self.completion, self.extra, self.edge_dropout = pooling, completion, extra, edge_dropout
        self.scale, self.offset, self.prior, self.alpha = scale, offset, prior, alpha
        # Shared by all arms and drawn first, so that arms of one seed start with the same weights.
        self.pair = nn.Sequential(*_block(hidden, hidden, dropout))  # IJLIN
        out = [layer for _ in range(blocks) for layer in _block(hidden, hidden, dropout)]
        self.out = nn.Sequential(*out, nn.Linear(hidden, 1))  # OUT
        if pooling != "none":
            self.beta = nn.Parameter(torch.ones(1))
            self.shared = _two_layers(1 if pooling == "count" else hidden, hidden, dropout)  # CNLIN
        if pooling == "vectors":
            self.transform = _two_layers(hidden, hidden, dropout)  # XLIN
        if extra is not None:
            self.beyond = _two_layers(hidden, hidden, dropout)

    def encode(self, graph: Batch) -> Encoded:
        h = self.model(graph["x"], adjacency(graph))  # Eq. (1)
        return Encoded(h, Neighbours(graph["graph"], len(h)))

    def score(self, encoded: Encoded, pairs: Tensor) -> Tensor:
        h, neighbours = encoded
        if self.training and self.edge_dropout:
            neighbours = neighbours.thinned(self.edge_dropout)
        return self.logits(Encoded(h, neighbours), pairs, self.completion)

    def logits(self, encoded: Encoded, pairs: Tensor, depth: int) -> Tensor:
        """Eq. (3) with the sums of Eq. (2), or of Eq. (4) for a ``depth`` above 0."""
        h, neighbours = encoded
        z = self.pair(h.index_select(0, pairs[:, 0]) * h.index_select(0, pairs[:, 1]))
        if self.pooling == "count":
            count = torch.bincount(neighbours.common(pairs).row, minlength=len(pairs))
            z = z + self.beta * self.shared(count.to(h.dtype)[:, None])
        elif self.pooling == "vectors":
            x = h + self.transform(h)  # Eq. (1)
            members, weights = self.members(encoded, pairs, depth)
            z = z + self.beta * self.shared(pool(x, members, len(pairs), weights))
            if self.extra is not None:
                z = z + self.beyond(sum(pool(x, side, len(pairs)) for side in self.outside(neighbours, pairs)))
        return self.out(z)[:, 0]

    def members(self, encoded: Encoded, pairs: Tensor, depth: int) -> tuple[Members, Tensor | None]:
        """The nodes that the sum of a pair runs over, and their weights in it (``None``: 1)."""
        if depth == 0:
            return encoded.neighbours.common(pairs), None  # Eq. (2)
        common, left, right = encoded.neighbours.overlap(pairs)  # disjoint: no node is counted twice
        row, node = (torch.cat(parts) for parts in zip(left, right, strict=True))
        far = torch.cat([pairs[left.row, 1], pairs[right.row, 0]])  # the one that the node is not linked to
        weights = torch.cat([encoded.h.new_ones(len(common.row)), self.missing(encoded, far, node, depth)])
        return Members(torch.cat([common.row, row]), torch.cat([common.node, node])), weights  # Eq. (4)

    @torch.no_grad()
    def missing(self, encoded: Encoded, nodes: Tensor, others: Tensor, depth: int) -> Tensor:
        """Probabilities that ``nodes[k]`` and ``others[k]`` are linked after all."""
        size = encoded.neighbours.num_nodes
        keys, place = (torch.minimum(nodes, others) * size + torch.maximum(nodes, others)).unique(return_inverse=True)
        pairs = torch.stack([keys // size, keys % size], dim=1)
        return self.calibrate(self.logits(encoded, pairs, depth - 1))[place]

    def calibrate(self, logits: Tensor) -> Tensor:
        """Eq. (5)."""
        p0 = torch.sigmoid(self.scale * (logits - self.offset))
        return self.alpha * self.prior * p0 / (self.prior * p0 + 1 - p0)

    def outside(self, neighbours: Neighbours, pairs: Tensor) -> list[Members]:
        """The sets of the extra term."""
        if self.extra == "difference":
            return list(neighbours.overlap(pairs)[1:])
        walks = neighbours.walks()
        sides = []
        for near, far in ((0, 1), (1, 0)):
            members = neighbours.of(pairs[:, near])
            sides.append(members.where(walks.contain(pairs[members.row, far], members.node)))
        return sides

    def name(self) -> str:
        """Of what is trained, for the table ``observed``."""
        if self.pooling != "vectors":
            return {"none": "GAE", "count": "GAE+CN"}[self.pooling]
        return "NCN" + "C" * bool(self.completion)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        hits = float(self.trainer.callback_metrics[f"test/hits@{self.k}"])
        self.record("observed", [_observed(self.trainer, self.name(), hits)])


class CommonNeighbourCounts(LinkHeuristic):
    """The heuristics, and what is missing for them: how many common neighbours pairs have in the training graph, and
    how many in the whole one (the paper's figure of incompleteness); ten stands for ten and more.
    """

    def work(self, item: int) -> Mapping[str, float]:
        metrics = super().work(item)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        whole = torch.cat([data.edges, data.edges.flip(0)], dim=1)
        kinds = {"training links": data.links["train"], "test links": data.links["test"]}
        for kind, pairs in (kinds | {"non-links": data.non_links["test"]}).items():
            for graph, edges in (("training graph", data.graph), ("whole graph", whole)):
                row = Neighbours(edges, data.num_nodes).common(pairs).row
                counts = torch.bincount(row, minlength=len(pairs)).clamp(max=10)
                shares = (torch.bincount(counts, minlength=11) / len(pairs)).tolist()
                label = f"{kind}, {graph}"
                self.record("common", [{"pairs": label, "count": k, "share": share} for k, share in enumerate(shares)])
        self.record("observed", [_observed(self.trainer, "CN", self.panel["cn"][f"test/hits@{self.k}"])])
        return metrics


def _observed(trainer: Any, name: str, hits: float) -> dict[str, float | str]:
    """A row of the table ``observed``."""
    return {"network": name, "observed": trainer.datamodule.observed, "hits": hits}


def _block(inputs: int, hidden: int, dropout: float) -> list[nn.Module]:
    """Linear, normalisation, dropout, ReLU, in the order of the authors' code."""
    return [nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.Dropout(dropout), nn.ReLU()]


def _two_layers(inputs: int, hidden: int, dropout: float) -> nn.Sequential:
    """XLIN and CNLIN: a sum reaches the first layer as it is, since a normalisation would hide how many it is of."""
    first = [nn.Linear(inputs, hidden), nn.Dropout(dropout), nn.ReLU()]
    return nn.Sequential(*first, *_block(hidden, hidden, dropout))
