"""Procedure: a method that does not train by gradients. Its unit of work is one item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.tasks.base import Task


class Items:
    """The numbers ``0 .. n-1``, one a batch; as a loader its state is the item it has come to."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.position = 0
        self._start = 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        start, self._start = self._start, 0
        for item in range(start, self.n):
            self.position = item + 1
            yield item

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._start = self.position = state["position"]


class Procedure(Task):
    """Closed forms, searches, simulations: ``fit`` walks over the units of work once.

    There is no optimizer, and no pass over a loader: :meth:`work` takes what it needs from
    ``self.trainer.datamodule`` (:meth:`split` for data in memory). ``trainer.max_epochs`` does not matter.

    A checkpoint can fall after every unit. A resumed run goes on with the unit after it; so what a unit leaves
    behind for later ones belongs in :meth:`state`, as plain values and tensors, or is computed again when it
    is missing. Randomness comes from ``self.streams``, best as ``self.streams.noise.at(item)``.

    Metrics are logged once, after the last unit. With more than one unit the table ``units`` holds those of each.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "single"

    def __init__(self, **task: Any) -> None:
        super().__init__(**task)
        self.automatic_optimization = False
        self.results: list[dict[str, float]] = []

    # What a method defines -----------------------------------------------------------------

    def units(self) -> int:
        """Number of items; asked once the data module is set up."""
        return 1

    def work(self, item: int) -> Mapping[str, float]:
        """Do one item and return its metrics by full name (``test/acc``)."""
        raise TypeError(f"{type(self).__name__} does not say what one unit of its work is: implement work()")

    def finish(self) -> Mapping[str, float]:
        """Final metrics, once all items are done; by default the mean of each over the items that have it."""
        names = list(dict.fromkeys(name for metrics in self.results for name in metrics))
        values = {name: [metrics[name] for metrics in self.results if name in metrics] for name in names}
        return {name: sum(column) / len(column) for name, column in values.items()}

    def state(self) -> dict[str, Any]:
        """What later items need of earlier ones: plain values and tensors."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` returned."""

    def split(self, name: str) -> Batch:
        """A whole split of a data module in memory as one batch, in the natural order."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.transform(dict(data.splits[name]))

    # What Lightning calls ------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            # The data module given to fit() would otherwise be asked for the batches: they are our items.
            self.trainer.fit_loop._data_source.instance = self

    def train_dataloader(self) -> Items:
        return Items(self.units())

    def training_step(self, batch: int | Tensor, batch_idx: int) -> None:
        item = int(batch)
        metrics = {name: float(value) for name, value in self.work(item).items()}
        self.results.append(metrics)
        if self.trainer.num_training_batches > 1:
            self.record("units", [{"item": item, **metrics}])

    def on_train_epoch_end(self) -> None:
        # The default reduction adds in float32; "max" of one value keeps it: no boundary of a claim is missed by 1e-8.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        values = {name: torch.tensor(float(value), dtype=dtype) for name, value in self.finish().items()}
        self.log_dict(values, reduce_fx="max")
        self.trainer.should_stop = True

    def configure_optimizers(self) -> list[Any]:
        return []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["replicata"] |= {"results": self.results, "procedure": self.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.results = checkpoint["replicata"]["results"]
        self.restore(checkpoint["replicata"]["procedure"])
