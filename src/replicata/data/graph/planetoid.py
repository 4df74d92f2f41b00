"""Planetoid: the citation graphs Cora, CiteSeer and PubMed with their public split.

Yang, Cohen, Salakhutdinov, ICML 2016. https://arxiv.org/abs/1603.08861; files: https://github.com/kimiyoung/planetoid
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from replicata.data.graph.module import GraphDataModule, row_normalised, sparse_rows, sparsified
from replicata.data.loaders import Batch
from replicata.errors import UserError

Name = Literal["Cora", "CiteSeer", "PubMed"]
PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
PER_CLASS, N_VAL, N_TEST = 20, 500, 1000  # the public split


class Planetoid(GraphDataModule):
    """A citation graph: papers, their words, their subjects, and who cites whom.

    Features are scaled to sum to 1 per node. The split is the public one: 20 training nodes of each
    class, 500 for validation, 1,000 for the test. CiteSeer's 15 papers without words (in no split) and its 48
    without citations are kept as nodes.

    Raw files are read from ``<root>/Planetoid/<name>/raw``, else ``<cache>/Planetoid/<name>/raw``, where they
    are downloaded to; the parsed graph is kept in the cache under the hash of the raw files.

    Args:
        name: ``Cora``, ``CiteSeer`` or ``PubMed``.
        **graph: See :class:`~replicata.data.graph.module.GraphDataModule`.
    """

    def __init__(self, name: Name, **graph: Any) -> None:
        if name not in get_args(Name):
            raise ValueError(f"data.name must be one of {', '.join(get_args(Name))}, got {name!r}")
        super().__init__(**graph)
        self.dataset = name

    def load(self) -> Batch:
        raw = self._raw()
        digest = hashlib.sha256()
        for path in self._files(raw):
            digest.update(path.read_bytes())
        parsed = self.cache / "Planetoid" / self.dataset / f"{digest.hexdigest()[:16]}.pt"
        graph = self._cached(parsed)
        if graph is None:
            graph = self._parse(raw)
            self.verify(graph)
            self._keep(parsed, graph)
        return graph | {"x": row_normalised(graph["x"])}

    def _files(self, raw: Path) -> list[Path]:
        return [raw / f"ind.{self.dataset.lower()}.{part}" for part in PARTS]

    def _raw(self) -> Path:
        """Where all raw files are; downloaded first if they are nowhere."""
        folders = [base / "Planetoid" / self.dataset / "raw" for base in (self.root, self.cache)]
        for folder in folders:
            if all(path.is_file() for path in self._files(folder)):
                return folder
        missing = [path.name for path in self._files(folders[0]) if not path.is_file()]
        if not self.download:
            raise UserError(
                f"{self.dataset}: {', '.join(missing)} not found in {folders[0]};"
                " put the Planetoid raw files there or set data.download=true"
            )
        return self._fetch(folders[1], missing, wanted=folders[0])

    def _fetch(self, folder: Path, missing: list[str], wanted: Path) -> Path:
        from torch_geometric.datasets import Planetoid as Source

        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as temporary, contextlib.redirect_stderr(io.StringIO()):
            try:
                Source(temporary, self.dataset)
            except Exception as error:  # no network, no such page, a broken archive
                raise UserError(
                    f"{self.dataset}: {', '.join(missing)} not found in {wanted} and the download from"
                    f" {Source.url} failed ({_line(error)}); put the raw files there"
                ) from error
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another process may have put them there meanwhile
                (Path(temporary) / self.dataset / "raw").replace(folder)
        return folder

    def _parse(self, raw: Path) -> Batch:
        from torch_geometric.io import read_planetoid_data

        try:
            data = read_planetoid_data(str(raw), self.dataset)
        except Exception as error:  # whatever a truncated pickle or a wrong shape raises
            raise UserError(
                f"{self.dataset}: the files in {raw} are damaged ({_line(error)}); fetch them again and replace them"
            ) from error
        n = len(data.y)
        splits = {name: data[f"{name}_mask"].nonzero().flatten() for name in ("train", "val", "test")}
        found = {name: len(nodes) for name, nodes in splits.items()}
        expected = {"train": PER_CLASS * (int(data.y.max()) + 1), "val": N_VAL, "test": N_TEST}
        if found != expected or len(data.x) != n or int(data.edge_index.max()) >= n:
            raise UserError(
                f"{self.dataset}: the files in {raw} do not fit together ({len(data.x)} rows of features, {n} labels,"
                f" splits {found} where the public one has {expected}); fetch them again and replace them"
            )
        return {"x": sparsified(data.x), "edges": data.edge_index, "y": data.y, **splits}

    @staticmethod
    def _keep(path: Path, graph: Batch) -> None:
        others, x = dict(graph), graph["x"]
        del others["x"]  # stored by its parts: torch checks sparse tensors slowly when it loads them
        parts = {"crow": x.crow_indices(), "col": x.col_indices(), "values": x.values()}
        write(path, others | parts | {"columns": torch.tensor(x.shape[1])})

    @staticmethod
    def _cached(path: Path) -> Batch | None:
        try:
            graph: Batch = torch.load(path, weights_only=True)
            crow, col, values, columns = (graph.pop(part) for part in ("crow", "col", "values", "columns"))
            return graph | {"x": sparse_rows(crow, col, values, int(columns))}
        except Exception:  # not there yet or damaged: it is parsed again
            return None


def write(path: Path, tensors: Batch) -> None:
    """Save under a temporary name and rename, so that the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(tensors, file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
