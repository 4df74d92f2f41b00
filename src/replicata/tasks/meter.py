"""Scores and mean losses of one stage, aggregated on the device and read once per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from replicata.errors import RunError


class RowMean(Metric):
    """The mean over rows of batch means. (torchmetrics' MeanMetric either drops NaNs or ignores weights.)"""

    full_state_update = False
    weighted: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("weighted", torch.tensor(0.0), dist_reduce_fx="sum", persistent=True)
        self.add_state("rows", torch.tensor(0.0), dist_reduce_fx="sum", persistent=True)

    def update(self, values: Tensor, rows: Tensor) -> None:
        self.weighted += (values * rows).sum()
        self.rows += rows.sum()

    def compute(self) -> Tensor:
        return self.weighted / self.rows


class Meter:
    """Collects batches and updates its torchmetrics on many of them at once.

    A torchmetrics update costs tens of microseconds whatever the batch, as much as the step of a
    small network; so outputs are kept until ``every`` batches have come and then concatenated.
    The buffer belongs to the state: a resumed run adds the same numbers in the same order.

    Args:
        stage: ``train``, ``val`` or ``test``, the prefix of the names.
        metrics: Scores over (output, target); may be empty.
        every: Batches per update.
    """

    def __init__(self, stage: str, metrics: MetricCollection, every: int = 32) -> None:
        self.stage = stage
        self.metrics = metrics
        self.every = every
        self.losses: dict[str, RowMean] = {}
        self._buffer: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        self._device = device
        self.metrics.to(device)
        for metric in self.losses.values():
            metric.to(device)

    def update(self, losses: Mapping[str, Tensor], output: Tensor, target: Tensor) -> None:
        """Add one batch; ``losses`` are means over its rows."""
        if not len(target):
            return
        self._buffer.append(({name: value.detach() for name, value in losses.items()}, output.detach(), target))
        if len(self._buffer) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Hand the buffered batches to the metrics."""
        if not self._buffer:
            return
        losses, outputs, targets = zip(*self._buffer, strict=True)
        self._buffer.clear()
        rows = torch.tensor([len(target) for target in targets], dtype=torch.float32, device=self._device)
        for name in losses[0]:
            metric = self.losses.get(name)
            if metric is None:
                metric = self.losses[name] = RowMean().to(self._device)
            metric.update(torch.stack([loss[name] for loss in losses]), rows)
        if len(self.metrics):
            self.metrics.update(torch.cat(outputs), torch.cat(targets))

    def assert_finite(self, step: int) -> None:
        """Stop the run at the batch whose loss is not finite.

        Args:
            step: Number of the last batch in the buffer, counted from 1.

        Raises:
            RunError: names the loss and the batch.
        """
        if not self._buffer:
            return
        for name in self._buffer[0][0]:
            bad = ~torch.stack([losses[name] for losses, _, _ in self._buffer]).isfinite()
            if bool(bad.any()):
                at = step - len(self._buffer) + 1 + int(bad.int().argmax())
                raise RunError(
                    f"{self.stage}/{name} is not finite at batch {at}; the last good checkpoint is kept."
                    " Lower optimizer.lr or clip gradients (trainer.gradient_clip_val)",
                    kind="diverged",
                    step=at,
                )

    def compute(self) -> dict[str, Tensor]:
        """All values over everything added since the last reset, reduced over processes, by full name."""
        self.flush()
        values = {name: metric.compute() for name, metric in self.losses.items()}
        if len(self.metrics):
            values |= self.metrics.compute()
        return {f"{self.stage}/{name}": value for name, value in values.items()}

    def reset(self) -> None:
        self._buffer.clear()
        self.metrics.reset()
        for metric in self.losses.values():
            metric.reset()

    def state_dict(self) -> dict[str, Any]:
        self.metrics.persistent(True)
        return {
            "metrics": self.metrics.state_dict(),
            "losses": {name: metric.state_dict() for name, metric in self.losses.items()},
            "buffer": list(self._buffer),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.metrics.persistent(True)
        self.metrics.load_state_dict(state["metrics"])
        for name, values in state["losses"].items():
            self.losses[name] = RowMean()
            self.losses[name].load_state_dict(values)
        self._buffer = list(state["buffer"])
        self.to(self._device)
