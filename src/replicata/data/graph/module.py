"""GraphDataModule: one graph, of whose nodes some are labelled for training."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from torch import Tensor

from replicata.data.loaders import Batch, WholeBatch
from replicata.data.module import fingerprint
from replicata.errors import UserError
from replicata.streams import Streams


class GraphDataModule(LightningDataModule):
    """Node classification on one graph; a subclass implements :meth:`load`.

    There is no validation loader: the task scores the validation nodes in the training step.

    Args:
        root: Folder of raw files, read only.
        cache: Folder for whatever is processed or downloaded.
        num_nodes, in_features, num_classes: Facts of the graph, which models read from the config;
            verified against the graph.
        download: Whether missing files may be fetched from their official source.

    Attributes:
        streams: The run's streams, set by the runner.
        graph: After ``setup``, the batch that every loader yields: features ``x`` :math:`(N, F)` in
            sparse CSR, ``edges`` :math:`(2, E)` with both directions of each edge, ``y`` :math:`(N)`, the
            node numbers of the splits ``train``, ``val``, ``test``, and ``index`` :math:`(N)`.
        fingerprint: After ``setup``, SHA-256 of everything in ``graph``.
    """

    streams: Streams

    def __init__(
        self, *, root: str, cache: str, num_nodes: int, in_features: int, num_classes: int, download: bool = True
    ) -> None:
        super().__init__()
        self.root, self.cache, self.download = Path(root).expanduser(), Path(cache).expanduser(), download
        self.num_nodes, self.in_features, self.num_classes = num_nodes, in_features, num_classes
        self.graph: Batch = {}
        self.fingerprint = ""

    def load(self) -> Batch:
        """The graph, all but ``index``."""
        raise UserError(f"{type(self).__name__} does not say how to load its graph: implement load()")

    def verify(self, graph: Batch) -> None:
        """Compare the declared facts with the graph.

        Raises:
            UserError: for the first that differs.
        """
        measured = {
            "num_nodes": len(graph["y"]),
            "in_features": graph["x"].shape[1],
            "num_classes": int(graph["y"].max()) + 1,
        }
        for name, value in measured.items():
            declared = getattr(self, name)
            if declared != value:
                raise UserError(f"data.{name} is declared as {declared}, but the data has {value}; set it to that")

    def setup(self, stage: str | None = None) -> None:
        if self.graph:
            return
        graph = self.load()
        self.verify(graph)
        self.graph = graph | {"index": torch.arange(self.num_nodes)}
        self.fingerprint = fingerprint({"graph": self.graph})

    @property
    def columns(self) -> frozenset[str]:
        """What the batch holds."""
        return frozenset(self.graph)

    def train_dataloader(self) -> WholeBatch:
        return self._loader()

    def test_dataloader(self) -> WholeBatch:
        return self._loader()

    def _loader(self) -> WholeBatch:
        trainer = self.trainer
        assert trainer is not None
        device = trainer.strategy.root_device
        return WholeBatch({name: column.to(device) for name, column in self.graph.items()})


def sparse_rows(crow: Tensor, col: Tensor, values: Tensor, columns: int) -> Tensor:
    """A feature matrix in sparse CSR from its parts."""
    with warnings.catch_warnings():  # torch tells every process once that CSR is in beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(crow, col, values, (len(crow) - 1, columns), check_invariants=True)


def sparsified(x: Tensor) -> Tensor:
    """A dense feature matrix :math:`(N, F)` in sparse CSR."""
    row, col = x.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(x))
    return sparse_rows(F.pad(counts.cumsum(0), (1, 0)), col, x[row, col], x.shape[1])


def row_normalised(x: Tensor) -> Tensor:
    """The rows of a sparse CSR matrix scaled to sum to 1; empty rows stay empty."""
    crow, values = x.crow_indices(), x.values()
    row = torch.repeat_interleave(torch.arange(len(crow) - 1), crow.diff())
    total = torch.zeros(len(crow) - 1).index_add_(0, row, values)
    return sparse_rows(crow, x.col_indices(), values / total[row], x.shape[1])
