"""LinkDataModule: one graph whose links are split into training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from replicata.data.graph.non_edges import NonEdges
from replicata.data.loaders import Batch, FreshBatches, WholeBatch
from replicata.data.module import fingerprint
from replicata.errors import UserError
from replicata.streams import Stream, Streams


class LinkDataModule(LightningDataModule):
    """Link prediction on one undirected graph; a subclass implements :meth:`load`.

    The message edges are the training links. Validation and test are asked for their links and for as many exact
    non-edges of the whole graph, the same in every epoch. A training batch holds links of the epoch's permutation
    and as many non-edges of the message graph, drawn anew for each batch; among them may be links of the
    validation or the test, which training cannot know. A last batch that is not full is left out.

    Args:
        root: Folder of raw files, read only.
        cache: Folder for whatever is processed or downloaded.
        num_nodes, in_features: Facts of the graph, which models read from the config; verified.
        download: Whether missing files may be fetched from their official source.
        batch_size: Links per training batch; a graph with fewer is one batch.
        val_share, test_share: Shares of the links that are held out.
        observed: Share of the training links that is kept; the others are neither messages nor targets.

    Attributes:
        streams: The run's streams, set by the runner.
        edges: After ``setup``, :math:`(2, E)`, each edge of the whole graph once, smaller node first.
        links: After ``setup``, by split the linked pairs :math:`(B, 2)`.
        non_links: After ``setup``, for ``val`` and ``test`` the unlinked pairs :math:`(B, 2)`.
        graph: After ``setup``, the message edges :math:`(2, E)`, both directions of each.
        x: After ``setup``, features :math:`(N, F)`: those of the source, else one and the logarithm of one plus the
            degree in the message graph.
        fingerprint: After ``setup``, SHA-256 of edges and features.
    """

    streams: Streams

    def __init__(
        self,
        *,
        root: str,
        cache: str,
        num_nodes: int,
        in_features: int,
        download: bool = True,
        batch_size: int = 1024,
        val_share: float = 0.1,
        test_share: float = 0.2,
        observed: float = 1.0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {batch_size}")
        for name, share in (("val_share", val_share), ("test_share", test_share)):
            if not 0 < share < 1:
                raise ValueError(f"data.{name} must be in (0, 1), got {share}")
        if val_share + test_share >= 1:
            raise ValueError(f"data.val_share and data.test_share leave no links to train on: {val_share + test_share}")
        if not 0 < observed <= 1:
            raise ValueError(f"data.observed must be in (0, 1], got {observed}")
        super().__init__()
        self.root, self.cache, self.download = Path(root).expanduser(), Path(cache).expanduser(), download
        self.num_nodes, self.in_features = num_nodes, in_features
        self.batch_size, self.val_share, self.test_share, self.observed = batch_size, val_share, test_share, observed
        self.edges = self.graph = self.x = torch.empty(0)
        self.links: dict[str, Tensor] = {}
        self.non_links: dict[str, Tensor] = {}
        self.fingerprint = ""

    def load(self) -> Mapping[str, Tensor]:
        """``edges`` :math:`(2, E)` in one or both directions and, where nodes have features, ``x`` :math:`(N, F)`."""
        raise UserError(f"{type(self).__name__} does not say how to load its graph: implement load()")

    def setup(self, stage: str | None = None) -> None:
        if self.links:
            return
        loaded = dict(self.load())
        self.edges = undirected(loaded["edges"])
        self.fingerprint = fingerprint({"graph": loaded | {"edges": self.edges}})
        stream = self.streams.split
        self.links = self._split(stream)
        sizes = {name: len(self.links[name]) for name in ("val", "test")}
        drawn = NonEdges(self.edges, self.num_nodes).draw(sum(sizes.values()), stream)
        self.non_links = dict(zip(sizes, drawn.split(list(sizes.values())), strict=True))
        train = self.links["train"].T
        self.graph = torch.cat([train, train.flip(0)], dim=1)
        self.x = loaded["x"] if "x" in loaded else self._degrees()
        self._verify()

    def _split(self, stream: Stream) -> dict[str, Tensor]:
        """Test, validation, and what is observed of the rest: sizes rounded down as in RandomLinkSplit."""
        pairs = self.edges.T[torch.randperm(self.edges.shape[1], generator=stream.torch)]
        n_val, n_test = int(self.val_share * len(pairs)), int(self.test_share * len(pairs))
        n_train = len(pairs) - n_val - n_test
        kept = round(self.observed * n_train)
        if not (n_val and n_test and kept):
            raise UserError(f"data: {len(pairs)} links are too few to split into training, validation and test")
        return {"train": pairs[:kept], "val": pairs[n_train : n_train + n_val], "test": pairs[n_train + n_val :]}

    def _degrees(self) -> Tensor:
        degree = torch.bincount(self.graph[0], minlength=self.num_nodes).float()
        return torch.stack([torch.ones_like(degree), degree.log1p()], dim=1)

    def _verify(self) -> None:
        measured = {"num_nodes": int(self.edges.max()) + 1, "in_features": self.x.shape[1]}
        for name, value in measured.items():
            declared = getattr(self, name)
            if declared < value or (name == "in_features" and declared != value):
                raise UserError(f"data.{name} is declared as {declared}, but the data has {value}; set it to that")

    # Batches -------------------------------------------------------------------------------

    @property
    def columns(self) -> frozenset[str]:
        """What a batch holds."""
        return frozenset({"x", "graph", "pos", "neg", "index"})

    def pairs(self, split: str) -> Batch:
        """All of ``val`` or ``test`` as one batch."""
        pos, neg = self.links[split], self.non_links[split]
        return {"x": self.x, "graph": self.graph, "pos": pos, "neg": neg, "index": torch.arange(len(pos))}

    def train_dataloader(self) -> FreshBatches:
        x, graph, links = (self._placed(tensor) for tensor in (self.x, self.graph, self.links["train"]))
        non_edges = NonEdges(self.graph, self.num_nodes)
        size = min(self.batch_size, len(links))
        steps = len(links) // size
        drawn: tuple[int, Tensor] = (-1, torch.empty(0))

        def batch(stream: Stream, step: int) -> Batch:
            nonlocal drawn
            epoch, position = divmod(step, steps)
            if drawn[0] != epoch:
                drawn = epoch, torch.randperm(len(links), generator=self.streams.order.at(epoch).torch)
            index = self._placed(drawn[1][position * size : (position + 1) * size])
            neg = self._placed(non_edges.draw(size, stream))
            return {"x": x, "graph": graph, "pos": links[index], "neg": neg, "index": index}

        return FreshBatches(batch, steps, self.streams.env)

    def val_dataloader(self) -> WholeBatch:
        return self._whole("val")

    def test_dataloader(self) -> WholeBatch:
        return self._whole("test")

    def _whole(self, split: str) -> WholeBatch:
        return WholeBatch({name: self._placed(column) for name, column in self.pairs(split).items()})

    def _placed(self, tensor: Tensor) -> Tensor:
        trainer = self.trainer
        assert trainer is not None
        return tensor.to(trainer.strategy.root_device)


def undirected(edges: Tensor) -> Tensor:
    """Each edge once, smaller node first, sorted, without self-loops."""
    low, high = edges.sort(0).values
    return torch.stack([low, high])[:, low < high].unique(dim=1)
