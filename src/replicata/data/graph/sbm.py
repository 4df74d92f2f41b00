"""Stochastic block model: a graph with communities and words that lean towards them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from replicata.data.graph.module import GraphDataModule, row_normalised, sparsified
from replicata.data.loaders import Batch
from replicata.streams import Stream


def block_edges(stream: Stream, y: Tensor, p_in: float, p_out: float) -> Tensor:
    """Undirected edges between all pairs independently, with the probability of their classes.

    Returns:
        :math:`(2, E)`, both directions of every edge, sorted.
    """
    same = y[:, None] == y[None, :]
    draws = torch.from_numpy(stream.numpy.random(same.shape))
    upper = (draws < torch.where(same, p_in, p_out)).triu(1)
    return (upper | upper.T).nonzero().T.contiguous()


def class_words(stream: Stream, y: Tensor, vocabulary: int, words: int, lean: float) -> Tensor:
    """Bags of words: each word comes from the class's own slice of the vocabulary with probability ``lean``.

    Returns:
        :math:`(N, V)` of 0 and 1.
    """
    n, rng = len(y), stream.numpy
    own = vocabulary // (int(y.max()) + 1)
    drawn = rng.integers(vocabulary, size=(n, words))
    from_class = y.numpy()[:, None] * own + rng.integers(own, size=(n, words))
    drawn = np.where(rng.random((n, words)) < lean, from_class, drawn)
    return torch.zeros(n, vocabulary).scatter_(1, torch.from_numpy(drawn), 1.0)


class SBM(GraphDataModule):
    """A graph drawn from the run's ``split`` stream; needs no files.

    Args:
        p_in, p_out: Probability of an edge within a class and between two classes.
        words: Words per node.
        lean: Probability that a word comes from the slice of the vocabulary that belongs to the class.
        per_class: Training nodes of each class.
        n_val: Validation nodes; all others are test nodes.
        **graph: See :class:`~replicata.data.graph.module.GraphDataModule`.
    """

    def __init__(
        self,
        *,
        p_in: float = 0.05,
        p_out: float = 0.005,
        words: int = 10,
        lean: float = 0.3,
        per_class: int = 20,
        n_val: int = 100,
        **graph: Any,
    ) -> None:
        for name, value in (("p_in", p_in), ("p_out", p_out), ("lean", lean)):
            if not 0 <= value <= 1:
                raise ValueError(f"data.{name} must be in [0, 1], got {value}")
        super().__init__(**graph)
        left = self.num_nodes - per_class * self.num_classes - n_val
        if left < 1:
            raise ValueError(f"data.n_val={n_val} leaves no test nodes: {left + n_val} nodes are left for both")
        self.p_in, self.p_out, self.words, self.lean = p_in, p_out, words, lean
        self.per_class, self.n_val = per_class, n_val

    def load(self) -> Batch:
        stream = self.streams.split
        # Nodes of a class are interchangeable: in this order any first rows hold the classes in equal numbers.
        y = torch.arange(self.num_nodes) % self.num_classes
        x = row_normalised(sparsified(class_words(stream, y, self.in_features, self.words, self.lean)))
        edges = block_edges(stream, y, self.p_in, self.p_out)
        n_train = self.per_class * self.num_classes
        train, val, test = torch.arange(self.num_nodes).tensor_split([n_train, n_train + self.n_val])
        return {"x": x, "edges": edges, "y": y, "train": train, "val": val, "test": test}
