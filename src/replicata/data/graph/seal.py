"""The link-prediction graphs of SEAL.

Zhang, Chen, NeurIPS 2018. https://arxiv.org/abs/1802.09691; files: https://github.com/muhanzhang/SEAL (MIT)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from replicata.data.files import published
from replicata.data.graph.links import LinkDataModule
from replicata.errors import UserError

Name = Literal["Celegans", "Ecoli", "NS", "PB", "Power", "Router", "USAir", "Yeast"]
SOURCE = "https://raw.githubusercontent.com/muhanzhang/SEAL/ea2d4249cfed4c5a570538a939f90469957b5f94"


class SEAL(LinkDataModule):
    """A graph without node features: neural wiring, a metabolic network, co-authors, blogs, a power grid, routers,
    airlines, proteins.

    MATLAB files with the adjacency matrix under the key ``net``, read from ``<root>/seal_links``, else from
    ``<cache>/seal_links``, where they are downloaded to.

    Args:
        name: The file without its ending.
        **links: See :class:`~replicata.data.graph.links.LinkDataModule`.
    """

    def __init__(self, name: Name, **links: Any) -> None:
        if name not in get_args(Name):
            raise ValueError(f"data.name must be one of {', '.join(get_args(Name))}, got {name!r}")
        super().__init__(**links)
        self.dataset = name

    def load(self) -> Mapping[str, Tensor]:
        from scipy.io import loadmat

        path = self._file()
        try:
            matrix = loadmat(path)["net"].tocoo()
        except Exception as error:  # whatever a truncated or foreign file raises
            raise UserError(
                f"{self.dataset}: {path} is damaged ({type(error).__name__}); fetch it again and replace it"
            ) from error
        if matrix.shape != (self.num_nodes, self.num_nodes):
            raise UserError(
                f"data.num_nodes is declared as {self.num_nodes}, but the data has {matrix.shape[0]}; set it to that"
            )
        return {"edges": torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))}

    def _file(self) -> Path:
        folder = "MATLAB/data" if self.dataset in ("NS", "PB", "Yeast") else "Python/data"
        file = f"{self.dataset}.mat"
        return published(
            f"seal_links/{file}",
            root=self.root,
            cache=self.cache,
            url=f"{SOURCE}/{folder}/{file}",
            download=self.download,
        )
