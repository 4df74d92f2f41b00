"""TensorDataModule: data sets that fit in memory, as dicts of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from replicata.data.loaders import Batch, IndexBatches
from replicata.errors import UserError
from replicata.streams import Stream, Streams

Split = dict[str, Tensor]


class TensorDataModule(LightningDataModule):
    """A data set in memory.

    A subclass implements :meth:`load` and declares as constructor arguments the facts that
    models read from the config (``num_classes``, ``in_shape`` ...). :meth:`facts` measures them on
    the real tensors and a difference is refused.

    Args:
        root: Folder of raw files, read only.
        cache: Folder for whatever is unpacked or processed.
        download: Whether missing files may be fetched from their official source.
        batch_size: Rows per training batch and process.
        steps_per_epoch: Training batches that count as one epoch; ``None``: one pass over the data.
        eval_batch_size: Rows per validation and test batch and process; default ``batch_size``.
        n_train, n_val, n_test: Rows kept of each split, stratified by ``y`` where it holds
            classes; ``None`` keeps all. What :meth:`load` does not deliver as a split of its own
            is cut from ``train`` first: test, then validation.

    Attributes:
        streams: The run's streams, set by the runner.
        splits: After ``setup``, ``{"train", "val", "test"} -> {key: tensor}``.
        fingerprint: After ``setup``, SHA-256 of everything that :meth:`load` returned.
    """

    streams: Streams
    labels: ClassVar[str] = "y"

    def __init__(
        self,
        *,
        root: str,
        cache: str,
        download: bool = True,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {batch_size}")
        self.root, self.cache, self.download = Path(root).expanduser(), Path(cache).expanduser(), download
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.steps_per_epoch = steps_per_epoch
        self.sizes = {"train": n_train, "val": n_val, "test": n_test}
        self.splits: dict[str, Split] = {}
        self.fingerprint = ""

    # What a data set defines ---------------------------------------------------------------

    def load(self) -> dict[str, Split]:
        """The raw splits: ``train`` and, where the source has them, ``val`` and ``test``."""
        raise UserError(f"{type(self).__name__} does not say how to load its data: implement load()")

    def process(self, splits: dict[str, Split]) -> dict[str, Split]:
        """Applied once to the cut splits: what is measured on the training rows, or falls on them alone."""
        return splits

    def facts(self) -> dict[str, Any]:
        """Facts measured on ``self.splits``, by the names of the attributes that declare them."""
        return {}

    def transform(self, batch: Batch) -> Batch:
        """Applied to every batch as it is cut."""
        return batch

    # What Lightning calls ------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        loaded = self.load()
        self.fingerprint = fingerprint(loaded)
        self.splits = self.process(self._cut(loaded))
        for name, measured in self.facts().items():
            declared = getattr(self, name)
            if declared != measured:
                raise UserError(f"data.{name} is declared as {declared}, but the data has {measured}; set it to that")

    @property
    def columns(self) -> frozenset[str]:
        """What a batch holds."""
        return frozenset({*self.splits["train"], "index"})

    def train_dataloader(self) -> IndexBatches:
        return self._loader("train", self.batch_size, self.streams.order)

    def val_dataloader(self) -> IndexBatches:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> IndexBatches:
        return self._loader("test", self.eval_batch_size)

    def _loader(self, split: str, batch_size: int, order: Stream | None = None) -> IndexBatches:
        trainer = self.trainer
        assert trainer is not None
        device = trainer.strategy.root_device
        tensors = {name: column.to(device) for name, column in self.splits[split].items()}
        plain = type(self).transform is TensorDataModule.transform
        return IndexBatches(
            tensors,
            batch_size,
            order,
            steps=self.steps_per_epoch if order is not None else None,
            rank=trainer.global_rank,
            world=trainer.world_size,
            transform=None if plain else self.transform,
        )

    # Splits --------------------------------------------------------------------------------

    def _cut(self, loaded: Mapping[str, Split]) -> dict[str, Split]:
        splits = dict(loaded)
        pool = splits["train"]
        for name in ("test", "val"):
            size = self.sizes[name]
            if name not in splits:
                if size is None:
                    raise UserError(f"data.n_{name} is needed: {type(self).__name__} has no {name} split of its own")
                chosen, rest = self._choose(pool, size, name)
                splits[name], pool = take(pool, chosen), take(pool, rest)
            elif size is not None:
                splits[name] = take(splits[name], self._choose(splits[name], size, name)[0])
        size = self.sizes["train"]
        splits["train"] = pool if size is None else take(pool, self._choose(pool, size, "train")[0])
        return splits

    def _choose(self, pool: Split, size: int, name: str) -> tuple[Tensor, Tensor]:
        available = len(next(iter(pool.values())))
        if not 0 < size <= available:
            raise UserError(f"data.n_{name}={size} does not fit: {available} examples are left for it")
        stream = self.streams.split.at(("test", "val", "train").index(name))
        labels = pool.get(self.labels)
        classes = labels if labels is not None and labels.dtype == torch.long and labels.ndim == 1 else None
        return stratified(classes, available, size, stream)


def stratified(labels: Tensor | None, total: int, size: int, stream: Stream) -> tuple[Tensor, Tensor]:
    """Draw ``size`` of ``total`` rows, each class in its share of the whole (largest remainders).

    Returns:
        Sorted row numbers :math:`(size)` chosen and :math:`(total - size)` left.
    """
    order = torch.randperm(total, generator=stream.torch)
    if labels is None:
        chosen = order[:size]
    else:
        counts = torch.bincount(labels)
        exact = counts.double() * size / total
        quota = exact.floor().long()
        largest = (exact - quota).argsort(descending=True, stable=True)[: size - int(quota.sum())]
        quota[largest] += 1
        shuffled = labels[order]
        chosen = torch.cat([order[shuffled == c][: int(quota[c])] for c in range(len(counts))])
    mask = torch.zeros(total, dtype=torch.bool)
    mask[chosen] = True
    rows = torch.arange(total)
    return rows[mask], rows[~mask]


def take(split: Split, rows: Tensor) -> Split:
    """The given rows of every column."""
    return {name: column[rows] for name, column in split.items()}


def fingerprint(splits: Mapping[str, Mapping[str, Tensor]]) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors, independent of dict order."""
    digest = hashlib.sha256()
    for split in sorted(splits):
        for name in sorted(splits[split]):
            column = splits[split][name]
            digest.update(f"{split}/{name}:{tuple(column.shape)}:{column.dtype}:{column.layout}".encode())
            sparse = column.layout == torch.sparse_csr
            parts = (column.crow_indices(), column.col_indices(), column.values()) if sparse else (column,)
            for part in parts:
                digest.update(part.detach().contiguous().cpu().numpy().data.cast("B"))
    return digest.hexdigest()
