"""Batches of a data set that does not fit in memory: read and augmented by worker processes, resumed exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, default_collate

from replicata.data.loaders import Batch, EpochOrder
from replicata.streams import Stream, Streams

Example = dict[str, Any]


class _Keyed(Dataset):
    """Examples by (epoch, row), so that what is drawn for one does not depend on the worker that reads it."""

    def __init__(self, read: Callable[[int], Example], key: tuple[int, ...] | None) -> None:
        self.read = read
        self.key = key

    def __getitem__(self, at: tuple[int, int]) -> Example:
        epoch, row = at
        if self.key is None:
            return self.read(row) | {"index": row}
        with Stream(*self.key, epoch, row).as_global():
            return self.read(row) | {"index": row}


class StreamedBatches:
    """A loader whose state is (epoch, position), as that of :class:`~replicata.data.loaders.IndexBatches`.

    Args:
        read: One example by its row: a dict of tensors and numbers. It runs in the workers and may draw from torch's
            global generator, which for each example is seeded by (stream, epoch, row).
        size: Rows of the set.
        batch_size: Rows per batch and process.
        order: Stream of the shuffle; ``None`` keeps the natural order.
        noise: Stream of what ``read`` draws; ``None``: it draws nothing.
        workers: Processes that read; 0: this one.
        drop_last: Leave out a last batch that is not full.
        rank, world: This process among those that train together; a global batch is cut into contiguous shares.
        pin_memory: Whether batches are put where a GPU fetches them faster.
        collate: Makes a batch of a list of examples; ``None``: each column is stacked.

    Yields:
        A flat dict of tensors; ``index`` :math:`(B)` holds the rows' numbers.
    """

    batch_sampler: None = None  # Lightning looks for this name

    def __init__(
        self,
        read: Callable[[int], Example],
        size: int,
        batch_size: int,
        order: Stream | None = None,
        *,
        noise: Stream | None = None,
        workers: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
        collate: Callable[[list[Example]], Batch] | None = None,
    ) -> None:
        self.examples = _Keyed(read, None if noise is None else noise.key)
        self.sampler = EpochOrder(size, order)
        self.batch_size, self.workers, self.pin_memory, self.collate = batch_size, workers, pin_memory, collate
        self.rank, self.world = rank, world
        full, rest = divmod(size, batch_size * world)
        self.steps = full if drop_last or not rest else full + 1
        self.position = 0
        self._restored: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.sampler.epoch, 0
        if self._restored is not None and self._restored[0] == epoch:
            start = self._restored[1]
        self._restored = None
        rows = self.batch_size * self.world
        order = self.sampler.permutation(epoch)
        shares = (order[at * rows : (at + 1) * rows].tensor_split(self.world)[self.rank] for at in range(self.steps))
        keys = [[(epoch, row) for row in share.tolist()] for share in shares][start:]
        batches = DataLoader(
            self.examples,
            batch_sampler=keys,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            collate_fn=self.collate,
            generator=torch.Generator(),  # the loader draws a seed for its workers, which nothing here uses
        )
        for position, batch in enumerate(batches, start):
            self.position = position + 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._restored = (state["epoch"], state["position"])


class Reader(Protocol):
    """The examples of a split, by their row."""

    def __len__(self) -> int: ...

    def __call__(self, row: int) -> Example: ...


class StreamingDataModule(LightningDataModule):
    """A data set that is read from its files as it is needed.

    A subclass implements ``setup``, which fills :attr:`readers` and :attr:`fingerprint`. Where :meth:`collate` does not
    stack what it is given, the subclass defines that too.

    Args:
        root: Folder that holds the files.
        batch_size: Rows per training batch and process.
        eval_batch_size: Rows per validation and test batch and process; ``None``: ``batch_size``.
        workers: Processes that read and augment, for each process that trains.

    Attributes:
        streams: The run's streams, set by the runner.
        readers: After ``setup``, the splits ``train``, ``val`` and ``test``. What a training example draws comes from
            the run's streams.
        fingerprint: After ``setup``, SHA-256 of what tells one set of files from another.
    """

    streams: Streams

    def __init__(self, root: str | Path, *, batch_size: int, eval_batch_size: int | None, workers: int) -> None:
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size or batch_size)):
            if value < 1:
                raise ValueError(f"data.{name} must be at least 1, got {value}")
        super().__init__()
        self.root = Path(root).expanduser()
        self.batch_size, self.eval_batch_size, self.workers = batch_size, eval_batch_size or batch_size, workers
        self.readers: dict[str, Any] = {}
        self.fingerprint = ""

    def collate(self, examples: list[Example]) -> Batch:
        """A batch of a list of examples."""
        return default_collate(examples)

    def train_dataloader(self) -> StreamedBatches:
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> StreamedBatches:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> StreamedBatches:
        return self._loader("test", self.eval_batch_size)

    def _loader(self, split: str, batch_size: int) -> StreamedBatches:
        trainer = self.trainer
        assert trainer is not None
        reader: Reader = self.readers[split]
        training = split == "train"
        return StreamedBatches(
            reader,
            len(reader),
            batch_size,
            self.streams.order if training else None,
            noise=self.streams.noise if training else None,
            workers=self.workers,
            drop_last=training,
            rank=trainer.global_rank,
            world=trainer.world_size,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            collate=self.collate,
        )
