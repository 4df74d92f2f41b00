"""The links of the citation graphs Cora, CiteSeer and PubMed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from replicata.data.graph.links import LinkDataModule
from replicata.data.graph.planetoid import Name, Planetoid
from replicata.data.loaders import Batch


class PlanetoidLinks(LinkDataModule):
    """Citations to predict from the others and from the papers' words, which are taken as the files have them.

    Args:
        name: ``Cora``, ``CiteSeer`` or ``PubMed``.
        num_classes: Number of subjects, verified although links do not depend on them.
        **links: See :class:`~replicata.data.graph.links.LinkDataModule`.
    """

    def __init__(self, name: Name, num_classes: int, **links: Any) -> None:
        super().__init__(**links)
        self.source = _Words(
            name,
            root=str(self.root),
            cache=str(self.cache),
            num_nodes=self.num_nodes,
            in_features=self.in_features,
            num_classes=num_classes,
            download=self.download,
        )

    def load(self) -> Mapping[str, Tensor]:
        self.source.setup()
        return {name: self.source.graph[name] for name in ("edges", "x")}


class _Words(Planetoid):
    """The graph with its features before their rows are normalised."""

    def load(self) -> Batch:
        return self._parse(self._raw())
