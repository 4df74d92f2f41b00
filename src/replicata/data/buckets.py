"""Batches of sequences of one length each: nothing is padded, and recurrent networks need no masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from replicata.data.loaders import Batch, EpochOrder, IndexBatches
from replicata.streams import Stream


class BucketOrder(EpochOrder):
    """An order of the rows in batches, none of which mixes lengths.

    With a stream, rows and batches are shuffled, and every pass leaves out the rows of each length that do not fill a
    batch, others each time. Without one all rows come in their natural order within a length, shorter ones first, and
    the batches of a length are near-equal, so that each process has rows of each.

    Args:
        lengths: Length of each row, :math:`(N)`.
        rows: Rows of a batch.
        stream: Of the shuffle.
    """

    def __init__(self, lengths: Tensor, rows: int, stream: Stream | None) -> None:
        super().__init__(len(lengths), stream)
        self.rows = rows
        self.buckets = [(lengths == length).nonzero().flatten() for length in lengths.unique()]
        counts = [len(bucket) // rows if stream is not None else -(-len(bucket) // rows) for bucket in self.buckets]
        self.per_pass = sum(counts)

    def batches(self, number: int) -> list[Tensor]:
        """The rows of each batch of the given pass."""
        if self.stream is None:
            return [part for bucket in self.buckets for part in bucket.tensor_split(-(-len(bucket) // self.rows))]
        generator = self.stream.at(number).torch
        shuffled = (bucket[torch.randperm(len(bucket), generator=generator)] for bucket in self.buckets)
        parts = [part for bucket in shuffled for part in bucket.split(self.rows) if len(part) == self.rows]
        return [parts[at] for at in torch.randperm(len(parts), generator=generator).tolist()]


class BucketBatches(IndexBatches):
    """Batches of padded sequences in memory, each of one length.

    Args:
        tensors: Columns of equal length :math:`N`.
        lengths: Length of each row, :math:`(N)`.
        batch_size: Rows per batch and process.
        order: Stream of the shuffle; ``None`` keeps the order of :class:`BucketOrder`.
        **batches: See :class:`~replicata.data.loaders.IndexBatches`; ``transform`` is what cuts the padding off.

    Raises:
        ValueError: if no length has enough rows for a shuffled batch.
    """

    sampler: BucketOrder

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        lengths: Tensor,
        batch_size: int,
        order: Stream | None = None,
        **batches: Any,
    ) -> None:
        super().__init__(tensors, batch_size, order, **batches)
        self.sampler = BucketOrder(lengths, batch_size * self.world, order)
        self.per_pass = self.sampler.per_pass
        if not self.per_pass:
            raise ValueError(f"no length has the {batch_size * self.world} rows of a batch: lower data.batch_size")
        self.steps = batches.get("steps") or self.per_pass

    def __iter__(self) -> Iterator[Batch]:
        current, order = -1, list[Tensor]()
        for position in range(self._start(), self.steps):
            self.position = position + 1
            number, batch = divmod(self.sampler.epoch * self.steps + position, self.per_pass)
            if number != current:
                current, order = number, self.sampler.batches(number)
            yield self._batch(order[batch])
