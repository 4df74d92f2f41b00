"""Batches of a data set that does not fit in memory: read and augmented by worker processes, resumed exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from replicata.data.loaders import Batch, EpochOrder
from replicata.streams import Stream

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
