"""Loaders over tensors in memory: a batch is one index operation, with no per-sample Python and no collate.

Both loaders are plain iterables that Lightning accepts as they are. Their order is a function of
(seed, epoch) alone, so their whole state is a position within an epoch and resuming is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from replicata.streams import Stream

Batch = dict[str, Tensor]


class EpochOrder:
    """The order of the rows: a permutation drawn from (stream, pass), or the natural order without a stream.

    Lightning calls :meth:`set_epoch` at the start of every epoch, as it does for any sampler.
    """

    def __init__(self, size: int, stream: Stream | None) -> None:
        self.size = size
        self.stream = stream
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def permutation(self, number: int) -> Tensor:
        """Rows :math:`(N)` in the order of the given pass over the data."""
        if self.stream is None:
            return torch.arange(self.size)
        return torch.randperm(self.size, generator=self.stream.at(number).torch)


class _Resumable:
    """Position within an epoch, restored only into the epoch it was taken in."""

    sampler: EpochOrder
    batch_sampler: None = None  # Lightning looks for both names
    position = 0
    _restored: tuple[int, int] | None = None

    def _start(self) -> int:
        """First batch to yield now: where a restored epoch had stopped, else the beginning."""
        start = 0
        if self._restored is not None and self._restored[0] == self.sampler.epoch:
            start = self._restored[1]
        self._restored = None
        return start

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._restored = (state["epoch"], state["position"])


class IndexBatches(_Resumable):
    """Batches of in-memory tensors.

    Args:
        tensors: Columns of equal length :math:`N`; a batch holds the same rows of each.
        batch_size: Rows per batch and process.
        order: Stream of the shuffle; ``None`` keeps the natural order.
        steps: Batches that count as one epoch; ``None``: one pass over the data. With a number, pass
            follows pass without regard to epochs, for recipes that are counted in steps.
        rank, world: This process among those that train together. A global batch of
            ``world * batch_size`` rows is cut into near-equal contiguous shares. Where shares
            differ (the last batch), training batches carry ``share``, the weight that makes the
            average of the processes' gradients the gradient of the whole batch.
        drop_last: Leave out a last batch that is not full.
        transform: Applied to each batch, rows at once (for instance uint8 images to floats).

    Yields:
        A flat dict of tensors; ``index`` :math:`(B)` holds the rows' numbers.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        batch_size: int,
        order: Stream | None = None,
        *,
        steps: int | None = None,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        transform: Callable[[Batch], Batch] | None = None,
    ) -> None:
        sizes = {column.shape[0] for column in tensors.values()}
        if len(sizes) != 1:
            raise ValueError(f"columns of a split differ in length: {sorted(sizes)}")
        self.tensors = dict(tensors)
        self.batch_size = batch_size
        self.rank, self.world = rank, world
        self.transform = transform
        self.sampler = EpochOrder(sizes.pop(), order)
        full, rest = divmod(self.sampler.size, batch_size * world)
        self.per_pass = full if drop_last or not rest else full + 1
        self.steps = steps or self.per_pass

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        rows = self.batch_size * self.world
        current, order = -1, torch.empty(0)
        for position in range(self._start(), self.steps):
            self.position = position + 1
            number, batch = divmod(self.sampler.epoch * self.steps + position, self.per_pass)
            if number != current:
                current, order = number, self.sampler.permutation(number)
            yield self._batch(order[batch * rows : (batch + 1) * rows])

    def _batch(self, index: Tensor) -> Batch:
        share = None
        if self.world > 1:
            whole = len(index)
            index = index.tensor_split(self.world)[self.rank]
            if self.sampler.stream is not None and len(index) * self.world != whole:
                share = torch.tensor(len(index) * self.world / whole)
                if not len(index):  # a process without rows still takes part in the step, with weight zero
                    index = torch.zeros(1, dtype=torch.long)
        device = next(iter(self.tensors.values())).device
        index = index.to(device)
        batch = {name: column[index] for name, column in self.tensors.items()}
        batch["index"] = index
        if self.transform is not None:
            batch = self.transform(batch)
        if share is not None:
            batch["share"] = share.to(device)
        return batch


class FreshBatches(_Resumable):
    """Batches drawn anew at every step from a generator of examples.

    Args:
        generate: ``(stream, step) -> batch``. ``stream`` is derived from (seed, step), so that a
            step's batch does not depend on the steps before it.
        steps_per_epoch: Steps that count as one epoch.
        stream: The run's ``env`` stream.
    """

    def __init__(self, generate: Callable[[Stream, int], Batch], steps_per_epoch: int, stream: Stream) -> None:
        self.generate = generate
        self.steps_per_epoch = steps_per_epoch
        self.sampler = EpochOrder(steps_per_epoch, stream)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        stream = self.sampler.stream
        assert stream is not None
        for position in range(self._start(), self.steps_per_epoch):
            self.position = position + 1
            step = self.sampler.epoch * self.steps_per_epoch + position
            yield self.generate(stream.at(step), step)


class WholeBatch(_Resumable):
    """One and the same batch once an epoch: a data set that is only ever seen whole, such as one graph.

    Args:
        batch: The flat dict of tensors to yield; the tensors may differ in length.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.sampler = EpochOrder(1, None)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        for position in range(self._start(), 1):
            self.position = position + 1
            yield self.batch
